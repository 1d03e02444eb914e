// A mask that is painted: slices of class numbers, made as they are touched.

export class Painting {
  constructor(shape, kinds) {
    [this.shape, this.kinds] = [shape, kinds];
    this.slices = new Map(); // z -> Uint8Array of rows and columns
    this.before = []; // of each stroke, the slices that it changed as they were
    const [depth, height, width] = shape;
    this.at = (i, j, k) => (i < 0 || j < 0 || i >= width || j >= height ? 0 : (this.slices.get(k)?.[j * width + i] ?? 0));
    this.low = [0, 0, 0];
    this.high = [width, height, depth];
    this.begin();
  }

  // Takes over another mask.
  take(mask) {
    for (let k = mask.low[2]; k < mask.high[2]; k++)
      for (let j = mask.low[1]; j < mask.high[1]; j++)
        for (let i = mask.low[0]; i < mask.high[0]; i++) if (mask.at(i, j, k)) this.put(i, j, k, mask.at(i, j, k));
    this.begin();
    this.before = [];
  }

  begin() { this.stroke = new Map(); }

  end() {
    if (this.stroke.size) this.before.push(this.stroke);
    if (this.before.length > 50) this.before.shift();
    this.begin();
  }

  put(i, j, k, kind) {
    const [depth, height, width] = this.shape;
    if (i < 0 || j < 0 || k < 0 || i >= width || j >= height || k >= depth) return;
    if (!this.stroke.has(k)) this.stroke.set(k, this.slices.get(k)?.slice());
    if (!this.slices.has(k)) this.slices.set(k, new Uint8Array(height * width));
    this.slices.get(k)[j * width + i] = kind;
  }

  // A disc of so many pixels across on a tile's slice, about a place; round in mm where voxels are not square.
  dab(tile, place, across, kind, spacing) {
    const { a, b } = tile, mm = spacing ? [spacing[2], spacing[1], spacing[0]] : [1, 1, 1];
    const least = Math.min(mm[a], mm[b]), [ra, rb] = [a, b].map((axis) => (across / 2) * (least / mm[axis]));
    const at = [0, 0, 0];
    at[tile.across] = tile.index;
    for (let j = Math.floor(place[b] - rb); j <= place[b] + rb; j++)
      for (let i = Math.floor(place[a] - ra); i <= place[a] + ra; i++) {
        const near = ((i + 0.5 - place[a]) / ra) ** 2 + ((j + 0.5 - place[b]) / rb) ** 2 <= 1;
        const middle = i === Math.floor(place[a]) && j === Math.floor(place[b]);
        if (near || middle) { at[a] = i; at[b] = j; this.put(...at, kind); }
      }
  }

  undo() {
    for (const [k, slice] of this.before.pop() ?? []) slice ? this.slices.set(k, slice) : this.slices.delete(k);
  }

  // As the server takes it: z -> base64.
  packed() {
    const found = {};
    for (const [k, slice] of this.slices) {
      let text = "";
      for (let i = 0; i < slice.length; i += 8192) text += String.fromCharCode(...slice.subarray(i, i + 8192));
      found[k] = btoa(text);
    }
    return found;
  }
}
