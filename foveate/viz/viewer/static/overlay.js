// Overlays on a canvas, pixel by pixel as foveate/viz/overlay.py draws them; a test compares the two.

// Grey as Pillow's "L".
const grey = (data, i) => (data[i] * 19595 + data[i + 1] * 38470 + data[i + 2] * 7471 + 0x8000) >> 16;

export function blank([height, width]) {
  const plain = new ImageData(width, height);
  plain.data.fill(128);
  for (let i = 3; i < plain.data.length; i += 4) plain.data[i] = 255;
  return plain;
}

// values: one per patch of all views. What the model did not see has no colour.
export function drawHeat(source, view, heat, palette, strength) {
  const { data, width, height } = source;
  const drawn = new ImageData(width, height);
  const [, columns] = view.grid;
  for (let y = 0, i = 0; y < height; y++) {
    for (let x = 0; x < width; x++, i += 4) {
      const seen = view.rows[y] >= 0 && view.columns[x] >= 0;
      const value = seen ? heat.values[view.start + view.rows[y] * columns + view.columns[x]] : 0;
      const level = Math.min(1, Math.max(0, (value - heat.low) / (heat.high - heat.low)));
      const color = seen ? palette[Math.round(level * 255)] : [0, 0, 0];
      const rest = grey(data, i) * (1 - strength);
      for (let c = 0; c < 3; c++) drawn.data[i + c] = Math.floor(color[c] * strength + rest);
      drawn.data[i + 3] = 255;
    }
  }
  return drawn;
}

// keep: a text of 0 and 1. A light line runs inside the border of the kept patches.
export function drawKept(source, view, keep, dim, strength) {
  const { data, width, height } = source;
  const drawn = new ImageData(width, height);
  const [, columns] = view.grid;
  const kept = new Uint8Array(width * height);
  for (let y = 0; y < height; y++) {
    if (view.rows[y] < 0) continue;
    const start = view.start + view.rows[y] * columns;
    for (let x = 0; x < width; x++) kept[y * width + x] = view.columns[x] >= 0 && keep[start + view.columns[x]] === "1" ? 1 : 0;
  }
  for (let y = 0, p = 0; y < height; y++) {
    for (let x = 0; x < width; x++, p++) {
      const i = 4 * p;
      const inside = kept[p] === 1;
      const edge = inside && ((x > 0 && !kept[p - 1]) || (x + 1 < width && !kept[p + 1]) || (y > 0 && !kept[p - width]) || (y + 1 < height && !kept[p + width]));
      const dark = Math.floor(grey(data, i) * dim);
      for (let c = 0; c < 3; c++) {
        const full = edge ? data[i + c] * 0.35 + 255 * 0.65 : inside ? data[i + c] : dark;
        drawn.data[i + c] = Math.floor(full * strength + data[i + c] * (1 - strength));
      }
      drawn.data[i + 3] = 255;
    }
  }
  return drawn;
}
