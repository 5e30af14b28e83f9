// An attention map over the photograph that it was computed from, as `regard extract --attention-overlay` draws it.

// From dark blue over red to light yellow: dark where attention is low, so that it also reads in grey.
const COLOURS = [[0, 0, 40], [60, 10, 110], [150, 40, 110], [220, 80, 60], [250, 160, 40], [255, 245, 160]];

function paint(value, target, at) {
  const place = Math.min(1, Math.max(0, value)) * (COLOURS.length - 1);
  const below = Math.min(COLOURS.length - 2, Math.floor(place));
  for (let channel = 0; channel < 3; channel += 1) {
    const [low, high] = [COLOURS[below][channel], COLOURS[below + 1][channel]];
    target[at + channel] = low + (high - low) * (place - below);
  }
  target[at + 3] = 255;
}

/** Return the map's value at a place between its cells: (row, column) in cells, cell centres at .5. */
function between({ heat, height, width }, row, column) {
  const within = (value, most) => Math.min(most - 1, Math.max(0, value));
  const [y, x] = [within(row - 0.5, height), within(column - 0.5, width)];
  const [top, left] = [Math.floor(y), Math.floor(x)];
  const [bottom, right] = [within(top + 1, height), within(left + 1, width)];
  const mix = (one, other, share) => one + (other - one) * share;
  const upper = mix(heat[top * width + left], heat[top * width + right], x - left);
  const lower = mix(heat[bottom * width + left], heat[bottom * width + right], x - left);
  return mix(upper, lower, y - top);
}

function colouredMap(map, width, height) {
  const image = new ImageData(width, height);
  for (let row = 0; row < height; row += 1) {
    for (let column = 0; column < width; column += 1) {
      paint(between(map, ((row + 0.5) / height) * map.height, ((column + 0.5) / width) * map.width), image.data, 4 * (row * width + column));
    }
  }
  const layer = new OffscreenCanvas(width, height);
  layer.getContext("2d").putImageData(image, 0, 0);
  return layer;
}

/** Draw what the network saw of a picture, sharp, with its attention; returns a function that redraws it at an opacity. */
export function drawOverlay(canvas, picture, looked) {
  canvas.width = 448;
  canvas.height = Math.round((448 * looked.height) / looked.width);
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  const layer = looked.attention && colouredMap(looked.attention, canvas.width, canvas.height);
  // The shorter side is resized, the middle is cut out: the same part, in the picture's own pixels.
  const scale = picture.cut ? 1 : looked.resize / Math.min(picture.image.width, picture.image.height);
  const [width, height] = [looked.width / scale, looked.height / scale];
  const [left, top] = [(picture.image.width - width) / 2, (picture.image.height - height) / 2];
  return (opacity) => {
    context.globalAlpha = 1;
    context.drawImage(picture.image, left, top, width, height, 0, 0, canvas.width, canvas.height);
    if (!layer) return;
    context.globalAlpha = opacity;
    context.drawImage(layer, 0, 0);
  };
}
