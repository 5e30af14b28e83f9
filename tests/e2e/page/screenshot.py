"""Make the picture of the page that README shows: `make screenshot`.

A real server under a minute of load, the light page at a desktop's width, as WebP so that the repository stays small.
--dark and --phone show the page's other faces; look at them when the page changes.
"""

import argparse
import io
import sys
import time
from pathlib import Path

from PIL import Image
from stage import Load, browser, server, show_photograph, until

from regard_models.samples import sample_photographs

TARGET = Path(__file__).parents[3] / "deploy/page.webp"


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("target", nargs="?", type=Path, default=TARGET)
    parser.add_argument("--dark", action="store_true")
    parser.add_argument("--phone", action="store_true")
    parser.add_argument("--seconds", type=float, default=70, help="of load before it")
    arguments = parser.parse_args()
    scheme = "dark" if arguments.dark else "light"
    with (
        server() as stage,
        browser() as chromium,
        Load(stage.target, ("mhsa_mini", "resnet_mini"), 8) as load,
    ):
        load.spoil()
        time.sleep(arguments.seconds)
        page = chromium.new_page(
            viewport={"width": 320 if arguments.phone else 1280, "height": 900},
            color_scheme=scheme,
            device_scale_factor=2 if arguments.phone else 1,
            has_touch=arguments.phone,
            is_mobile=arguments.phone,
        )
        page.goto(stage.page)
        page.wait_for_selector("#form:not([hidden])")
        show_photograph(page, next(path for path in sample_photographs() if path.stem == "chelsea"))
        page.locator("#samples img").last.scroll_into_view_if_needed()
        until(page, "[...document.images].every((image) => image.complete)")
        picture = Image.open(io.BytesIO(page.screenshot(full_page=True)))
    picture.convert("RGB").save(arguments.target, quality=85, method=6)
    size = arguments.target.stat().st_size // 1000
    sys.stdout.write(f"{arguments.target}: {picture.width}×{picture.height}, {size} kB\n")


if __name__ == "__main__":
    main()
