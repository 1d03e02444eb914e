// What lies over the image: outlines, uncertainty, the brush. All places are voxels of the scan: column, row, slice.

// A mask as the server packs it, with the part of the scan that it covers.
export function unpack({ corner, size, classes }) {
  const data = Uint8Array.from(atob(classes), (letter) => letter.charCodeAt(0));
  const [z, y, x] = corner, [depth, height, width] = size;
  const at = (i, j, k) => i < x || j < y || k < z || i >= x + width || j >= y + height || k >= z + depth
    ? 0 : data[((k - z) * height + j - y) * width + i - x];
  return { at, low: [x, y, z], high: [x + width, y + height, z + depth], kinds: data.reduce((most, one) => Math.max(most, one), 0) };
}

// The three (or one) slices on the screen: where each lies, and the way between pixels and voxels.
export function tilesOf(niivue, shape) {
  const volume = niivue.volumes[0];
  if (!volume) return [];
  const sides = [shape[2], shape[1], shape[0]];
  // NiiVue counts from left, posterior and inferior: back to the scan's own axes.
  const voxel = (fraction) => {
    const found = [0, 0, 0];
    volume.permRAS.forEach((axis, i) => {
      const own = Math.abs(axis) - 1;
      found[own] = (axis > 0 ? fraction[i] : 1 - fraction[i]) * sides[own];
    });
    return found;
  };
  return niivue.screenSlices.flatMap((slice, number) => {
    if (slice.axCorSag > 2) return [];
    let [left, top, width, height] = slice.leftTopWidthHeight;
    if (width < 0) [left, width] = [left + width, -width];
    const read = (x, y) => voxel(niivue.screenXY2TextureFrac(x, y, number, false));
    const x0 = left + width * 0.25, y0 = top + height * 0.25, dx = width / 2, dy = height / 2;
    const origin = read(x0, y0), right = read(x0 + dx, y0), below = read(x0, y0 + dy);
    const u = right.map((value, i) => (value - origin[i]) / dx), v = below.map((value, i) => (value - origin[i]) / dy);
    const across = [0, 1, 2].reduce((best, i) => (Math.abs(u[i]) + Math.abs(v[i]) < Math.abs(u[best]) + Math.abs(v[best]) ? i : best));
    const [a, b] = [0, 1, 2].filter((i) => i !== across);
    const det = u[a] * v[b] - v[a] * u[b];
    // A column of the matrix is what one voxel along a, or b, is in pixels.
    const ax = v[b] / det, ay = -u[b] / det, bx = -v[a] / det, by = u[a] / det;
    const ox = x0 - origin[a] * ax - origin[b] * bx, oy = y0 - origin[a] * ay - origin[b] * by;
    const index = Math.min(sides[across] - 1, Math.max(0, Math.floor(origin[across] + 1e-4)));
    return [{
      a, b, across, index, plane: slice.axCorSag, left, top, width, height,
      matrix: [ax, ay, bx, by, ox, oy],
      pixel: (i, j) => [ox + i * ax + j * bx, oy + i * ay + j * by],
      voxel: (x, y) => { const found = [0, 0, 0]; found[a] = origin[a] + u[a] * (x - x0) + v[a] * (y - y0); found[b] = origin[b] + u[b] * (x - x0) + v[b] * (y - y0); found[across] = index + 0.5; return found; },
      inside: (x, y) => x >= left && y >= top && x < left + width && y < top + height,
    }];
  });
}

// A mask on a tile's slice as a function of the tile's two axes.
function onSlice(mask, { a, b, across, index }) {
  const at = [0, 0, 0];
  at[across] = index;
  return (i, j) => { at[a] = i; at[b] = j; return mask.at(at[0], at[1], at[2]); };
}

const missed = (mask, tile) => tile.index < mask.low[tile.across] || tile.index >= mask.high[tile.across];
const DASHES = [[], [6, 4], [2, 3], [8, 3, 2, 3]]; // classes differ by line style, as in figures

// The closed lines around the marked pixels of one class, each a list of corners: [column, row] between pixels.
function loops(value, kind, [i0, i1], [j0, j1]) {
  const next = new Map(), key = (i, j) => `${i},${j}`;
  const edge = (i, j, i2, j2) => (next.get(key(i, j)) ?? next.set(key(i, j), []).get(key(i, j))).push([i2, j2]);
  for (let j = j0; j <= j1; j++)
    for (let i = i0; i <= i1; i++) {
      const own = value(i, j) === kind, before = value(i - 1, j) === kind, above = value(i, j - 1) === kind;
      if (own && !before) edge(i, j + 1, i, j); // the class lies to the right of each edge
      if (before && !own) edge(i, j, i, j + 1);
      if (own && !above) edge(i, j, i + 1, j);
      if (above && !own) edge(i + 1, j, i, j);
    }
  const found = [];
  for (const [start, ends] of next)
    while (ends.length) {
      const line = [start.split(",").map(Number)];
      for (let at = start; next.get(at).length; at = key(...line.at(-1))) line.push(next.get(at).pop());
      found.push(line);
    }
  return found;
}

// A mask's outlines on a tile. dash: of the first class; the others have their own.
export function outline(context, mask, tile, colour, width, opacity = 1, dash = []) {
  if (missed(mask, tile)) return;
  const value = onSlice(mask, tile), { a, b } = tile, kinds = mask.kinds ?? 1;
  context.save();
  Object.assign(context, { strokeStyle: colour, lineWidth: width, globalAlpha: opacity, lineJoin: "miter" });
  for (let kind = 1; kind <= kinds; kind++) {
    context.setLineDash(kind > 1 ? DASHES[(kind - 1) % DASHES.length] : dash);
    context.beginPath();
    for (const line of loops(value, kind, [mask.low[a], mask.high[a]], [mask.low[b], mask.high[b]]))
      line.forEach(([i, j], place) => (place ? context.lineTo(...tile.pixel(i, j)) : context.moveTo(...tile.pixel(i, j))));
    context.stroke();
  }
  context.restore();
}

// Values of 0 to 255 as colours of a table, pixel by pixel.
export function heat(context, map, tile, table, opacity) {
  if (missed(map, tile)) return;
  const [i0, j0] = [map.low[tile.a], map.low[tile.b]], width = map.high[tile.a] - i0, height = map.high[tile.b] - j0;
  if (width <= 0 || height <= 0) return;
  const value = onSlice(map, tile), picture = new ImageData(width, height);
  for (let j = 0; j < height; j++) for (let i = 0; i < width; i++) picture.data.set(table[value(i0 + i, j0 + j)], 4 * (j * width + i));
  const small = new OffscreenCanvas(width, height);
  small.getContext("2d").putImageData(picture, 0, 0);
  context.save();
  context.globalAlpha = opacity;
  context.imageSmoothingEnabled = false;
  context.transform(...tile.matrix);
  context.drawImage(small, i0, j0, width, height);
  context.restore();
}
