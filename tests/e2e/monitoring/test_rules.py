"""The alerts by themselves: promtool fires each of them, and does not, and each leads somewhere."""

import re
import subprocess
from pathlib import Path

TOP = Path(__file__).parents[3]
ALERTS = (TOP / "deploy/prometheus/rules/alerts.yml").read_text()
CASES = sorted((TOP / "tests/rules").glob("*.yml"))
NAMES = set(re.findall(r"- alert: (\w+)", ALERTS))


def test_rules_do_what_their_cases_say(promtool):
    """Every case of tests/rules: what fires when, with which words, and what does not."""
    tested = subprocess.run([promtool, "test", "rules", *CASES], capture_output=True, text=True, check=False)
    assert tested.returncode == 0, tested.stdout + tested.stderr


def test_every_alert_is_seen_to_fire_and_not_to():
    """A rule that was never seen to fire may be unable to."""
    text = "\n".join(path.read_text() for path in CASES)
    quiet = set(re.findall(r"alertname: (\w+), eval_time: \w+, exp_alerts: \[\]", text))
    fires = set(re.findall(r"alertname: (\w+)\n\s+eval_time: \w+\n\s+exp_alerts:\n\s+- exp_labels", text))
    assert quiet == NAMES
    assert fires == NAMES


def test_every_alert_leads_to_a_section_of_the_runbook():
    """Each says what is wrong, and where to read what to do; and the runbook has no section that nobody leads to."""
    titles = re.findall(r"^## (.+)$", (TOP / "deploy/RUNBOOK.md").read_text(), re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}
    linked = re.findall(r"runbook: deploy/RUNBOOK.md#(\S+)", ALERTS)
    assert len(linked) == len(NAMES) == ALERTS.count("summary: ") == ALERTS.count("description: ")
    assert set(linked) == anchors
    assert len(re.findall(r"severity: (?:page|ticket)\n", ALERTS)) == len(NAMES)
