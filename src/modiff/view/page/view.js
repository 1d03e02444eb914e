// The page: an image that NiiVue draws, layers over it, and a panel about what was drawn at a click.
import { Niivue, DRAG_MODE } from "./niivue.js";
import { heat, outline, tilesOf, unpack } from "./layers.js";
import { Painting } from "./brush.js";

const $ = (id) => document.getElementById(id);
const TOOLS = { click: DRAG_MODE.crosshair, pan: DRAG_MODE.pan, measure: DRAG_MODE.measurement, brush: DRAG_MODE.crosshair };
const RATERS = [[6, 3], [2, 3], [12, 3], [8, 3, 2, 3]]; // raters differ by line style, hypotheses by colour
const STYLES = ["dashed", "dotted", "double", "groove"];
const state = { tool: "click", plane: 3, shown: 0, result: null, raters: [], painting: null, request: null, slow: true };
const niivue = new Niivue({
  isRadiologicalConvention: true, loadingText: "", dragAndDropEnabled: false, logLevel: "error", backColor: [0, 0, 0, 1],
  crosshairWidth: 0,
  multiplanarShowRender: 0, multiplanarPadPixels: 4, multiplanarEqualSize: false, isOrientationTextVisible: true,
  dragMode: DRAG_MODE.windowing, rulerColor: [0.94, 0.89, 0.26, 1], measureLineColor: [0.94, 0.89, 0.26, 1],
  measureTextColor: [0.94, 0.89, 0.26, 1], isResizeCanvas: true,
});
let info;

// ---- talking to the server

async function post(where, body, signal) {
  const made = await fetch(where, {
    method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body), signal,
  });
  if (!made.ok) throw new Error((await made.json().catch(() => ({ error: `the server answered ${made.status}` }))).error);
  return made;
}

function say(text, wrong = false) {
  $("status").textContent = text;
  $("status").classList.toggle("wrong", wrong);
}

const wanted = (at, whole) => ({ at, whole, raters: $("given").checked ? "marking" : "single", slices: Number($("slices").value) || 0 });

// Draws at a place, or on its whole slice: first a few samples, then all; a later click ends an earlier one.
async function read(at, whole = false) {
  state.request?.abort();
  const request = (state.request = new AbortController());
  const started = performance.now();
  state.asked = wanted(at, whole);
  try {
    say("Drawing …");
    for (const preview of state.slow ? [true, false] : [false]) {
      const result = await (await post("click", { ...state.asked, preview }, request.signal)).json();
      if (request !== state.request) return;
      show(result);
      const seconds = (performance.now() - started) / 1000;
      if (preview) state.first = seconds;
      else [state.slow, state.whole] = [result.seconds > 0.7, seconds];
      say(preview ? `First ${result.drawn}; the others follow …` : `${result.drawn}, ${seconds.toFixed(1)}\u00a0s`);
    }
  } catch (error) {
    if (error.name !== "AbortError" && request === state.request) say(error.message, true);
  }
}

// ---- what was drawn

function show(result) {
  state.result = {
    ...result,
    hypotheses: result.hypotheses.map((one) => ({ ...one, mask: unpack(one.mask) })),
    samples: result.samples.map(unpack),
    entropy: unpack(result.entropy),
  };
  $("found").hidden = false;
  $("export").hidden = !!result.stored; // its files are there
  $("presence").textContent = result.given ? "Given that a rater marks" : `A rater marks anything: ${result.presence}`;
  const agreement = result.agreement ? `agreement of two samples (mean IoU) ${result.agreement}` : "";
  $("about").textContent = [...(result.given ? [] : [result.presence_from]), agreement].filter(Boolean).join("; ");
  $("hypotheses").replaceChildren(...result.hypotheses.map(item));
  if (result.unseen) $("hypotheses").append(Object.assign(document.createElement("li"), { textContent: result.unseen, className: "small" }));
  $("step").max = result.hypotheses.length;
  $("sizes").textContent = result.sizes.join("; ");
  $("warnings").replaceChildren(...result.warnings.map((text) => Object.assign(document.createElement("li"), { textContent: text })));
  step(0); // the hypotheses are others
}

function item(one, place) {
  const button = document.createElement("button"), swatch = document.createElement("span");
  swatch.className = one.nothing ? "swatch nothing" : "swatch";
  if (!one.nothing) swatch.style.borderColor = one.colour;
  button.append(swatch, ...[one.percent, one.size].map((text) => Object.assign(document.createElement("span"), { textContent: text })));
  button.onclick = () => step(state.shown === place + 1 ? 0 : place + 1);
  const line = document.createElement("li");
  line.append(button);
  return line;
}

// Hypothesis `number`, from 1; 0 is all of them.
function step(number) {
  if (!state.result) return;
  const count = state.result.hypotheses.length;
  state.shown = Math.min(count, Math.max(0, number));
  $("step").value = state.shown;
  $("shown").textContent = state.shown ? `${state.shown} of ${count}` : "all";
  [...$("hypotheses").querySelectorAll("button")].forEach((button, i) => button.setAttribute("aria-current", i + 1 === state.shown));
  $("take").disabled = state.shown === 0 && !state.result.hypotheses.some((one) => !one.nothing);
  redraw();
}

function showRaters(raters) {
  const off = new Set(state.raters.filter((one) => !one.on).map((one) => one.name));
  state.raters = raters.map((one) => ({ ...one, mask: one.mask && unpack(one.mask), on: !off.has(one.name) }));
  $("raters").hidden = raters.length === 0;
  $("names").replaceChildren(...state.raters.map((one, i) => {
    const line = document.createElement("li"), label = document.createElement("label"), box = document.createElement("input"), swatch = document.createElement("span");
    Object.assign(box, { type: "checkbox", checked: one.on && !!one.mask, disabled: !one.mask });
    box.onchange = () => { one.on = box.checked; redraw(); };
    swatch.className = one.mask && !one.nothing ? "swatch" : "swatch nothing";
    if (one.mask && !one.nothing) swatch.style.border = `2px ${STYLES[i % STYLES.length]} #ffffff`;
    label.className = "row";
    label.append(box, swatch, `${one.name}${one.mask ? (one.nothing ? ": nothing there" : "") : ": did not read"}`);
    line.append(label);
    return line;
  }));
}

// ---- drawing

let waiting = false;
function redraw() {
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => { waiting = false; draw(); });
}

function draw() {
  const canvas = $("layers"), context = canvas.getContext("2d"), ratio = niivue.uiData.dpr ?? 1;
  if (canvas.width !== niivue.canvas.width) canvas.width = niivue.canvas.width;
  if (canvas.height !== niivue.canvas.height) canvas.height = niivue.canvas.height;
  context.clearRect(0, 0, canvas.width, canvas.height);
  state.tiles = tilesOf(niivue, info.shape);
  for (const tile of state.tiles) {
    context.save();
    context.beginPath();
    context.rect(tile.left, tile.top, tile.width, tile.height);
    context.clip();
    drawTile(context, tile, ratio);
    context.restore();
  }
  const cross = crosshair();
  if (cross) $("place").textContent = `${info.shape[0] > 1 ? `slice ${cross[2]} of 0 to ${info.shape[0] - 1}, ` : ""}column ${cross[0]}, row ${cross[1]}`;
}

function drawTile(context, tile, ratio) {
  const result = state.result, fade = Number($("fade").value) / 100;
  if (result && fade > 0) heat(context, result.entropy, tile, info.heat, fade);
  const shown = result ? result.hypotheses.map((one, i) => [one, i + 1]).filter(([, i]) => !state.shown || i === state.shown) : [];
  if (result && $("samples").checked)
    for (const [one] of shown) for (const i of one.samples) if (result.samples[i]) outline(context, result.samples[i], tile, one.colour, ratio, 0.45);
  for (const [one] of shown.reverse())
    outline(context, one.mask, tile, one.colour, (state.shown ? 2.5 : one.rare ? 1 : 2) * ratio, state.shown || !one.rare ? 1 : 0.7);
  state.raters.forEach((one, i) => { if (one.on && one.mask) outline(context, one.mask, tile, "#ffffff", 1.5 * ratio, 1, RATERS[i % RATERS.length]); });
  if (state.painting) outline(context, state.painting, tile, "#ffffff", 2 * ratio);
  drawCross(context, tile, ratio);
}

// Lines through the place that is looked at, with a gap where the lesion is.
function drawCross(context, tile, ratio) {
  const place = crosshair(), [x, y] = tile.pixel(place[tile.a] + 0.5, place[tile.b] + 0.5), gap = 16 * ratio, far = 1e5;
  context.beginPath();
  for (const [dx, dy] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) {
    context.moveTo(x + dx * gap, y + dy * gap);
    context.lineTo(x + dx * far, y + dy * far);
  }
  Object.assign(context, { strokeStyle: "#56b4e9a0", lineWidth: ratio });
  context.stroke();
}

// ---- places

function crosshair() {
  const tile = state.tiles?.[0];
  if (!tile) return null;
  const sides = [info.shape[2], info.shape[1], info.shape[0]], found = [0, 0, 0];
  niivue.volumes[0].permRAS.forEach((axis, i) => {
    const own = Math.abs(axis) - 1, fraction = niivue.scene.crosshairPos[i];
    found[own] = Math.min(sides[own] - 1, Math.max(0, Math.floor((axis > 0 ? fraction : 1 - fraction) * sides[own] + 1e-4)));
  });
  return found;
}

function moveTo(place) {
  const sides = [info.shape[2], info.shape[1], info.shape[0]];
  niivue.volumes[0].permRAS.forEach((axis, i) => {
    const own = Math.abs(axis) - 1, fraction = (Math.min(sides[own] - 1, Math.max(0, place[own])) + 0.5) / sides[own];
    niivue.scene.crosshairPos[i] = axis > 0 ? fraction : 1 - fraction;
  });
  niivue.drawScene();
}

// The tile under the pointer, and the voxel there as whole and as real numbers.
function under(event) {
  const box = $("image").getBoundingClientRect(), ratio = niivue.canvas.width / box.width;
  const x = (event.clientX - box.left) * ratio, y = (event.clientY - box.top) * ratio;
  const tile = (state.tiles ?? []).find((one) => one.inside(x, y));
  if (!tile) return null;
  const place = tile.voxel(x, y), voxel = place.map(Math.floor), sides = [info.shape[2], info.shape[1], info.shape[0]];
  return voxel.every((value, i) => value >= 0 && value < sides[i]) ? { tile, place, voxel } : null;
}

function zoom(factor) {
  const [x, y, z, before] = niivue.scene.pan2Dxyzmm, scale = Math.min(40, Math.max(1, before * factor));
  if (scale === 1) return niivue.setPan2Dxyzmm([0, 0, 0, 1]);
  // About the cross, as NiiVue's own wheel does it.
  const middle = niivue.frac2mm(niivue.scene.crosshairPos), less = before - scale;
  niivue.setPan2Dxyzmm([x + less * middle[0], y + less * middle[1], z + less * middle[2], scale]);
}

// ---- tools and keys

function choose(tool) {
  if (tool === "brush" && !state.painting) edit(true);
  state.tool = tool;
  niivue.opts.dragModePrimary = TOOLS[tool];
  $("layers").classList.toggle("painting", tool === "brush");
  document.querySelectorAll("[data-tool]").forEach((button) => button.setAttribute("aria-pressed", button.dataset.tool === tool));
}

function look(plane) {
  state.plane = plane;
  niivue.setSliceType(plane);
  document.querySelectorAll("[data-plane]").forEach((button) => button.setAttribute("aria-pressed", Number(button.dataset.plane) === plane));
}

function grey(index) {
  const { low, high } = info.windows[index], volume = niivue.volumes[0];
  [volume.cal_min, volume.cal_max] = [low, high];
  $("window").value = index;
  niivue.updateGLVolume();
}

function scroll(by) {
  // Along the axis across the plane that is looked at: of all three the axial one.
  const plane = state.plane === 3 ? 0 : state.plane, tile = state.tiles?.find((one) => one.plane === plane), place = crosshair();
  if (!tile) return;
  place[tile.across] += by;
  moveTo(place);
}

function moveCross(right, down) {
  const plane = state.plane === 3 ? 0 : state.plane, tile = state.tiles?.find((one) => one.plane === plane), place = crosshair();
  if (!tile) return;
  const [ax, ay, bx, by] = tile.matrix;
  if (right) place[Math.abs(ax) > Math.abs(bx) ? tile.a : tile.b] += right * Math.sign(Math.abs(ax) > Math.abs(bx) ? ax : bx);
  if (down) place[Math.abs(ay) > Math.abs(by) ? tile.a : tile.b] += down * Math.sign(Math.abs(ay) > Math.abs(by) ? ay : by);
  moveTo(place);
}

const toggle = (id) => { $(id).checked = !$(id).checked; $(id).dispatchEvent(new Event("change")); };
const KEYS = {
  ArrowRight: (e) => (e.shiftKey ? moveCross(1, 0) : step(state.shown + 1)),
  ArrowLeft: (e) => (e.shiftKey ? moveCross(-1, 0) : step(state.shown - 1)),
  ArrowUp: (e) => (e.shiftKey ? moveCross(0, -1) : scroll(1)),
  ArrowDown: (e) => (e.shiftKey ? moveCross(0, 1) : scroll(-1)),
  Enter: () => read(crosshair(), info.whole),
  "+": () => zoom(1.4), "=": () => zoom(1.4), "-": () => zoom(1 / 1.4), 0: () => zoom(0),
  w: () => grey((Number($("window").value) + 1) % info.windows.length),
  u: () => { $("fade").value = Number($("fade").value) ? 0 : 70; redraw(); },
  g: () => toggle("given"), s: () => toggle("samples"), e: () => toggle("erase"),
  z: () => { state.painting?.undo(); redraw(); },
  1: () => choose("click"), 2: () => choose("pan"), 3: () => choose("measure"), 4: () => choose("brush"),
  5: () => look(3), 6: () => look(0), 7: () => look(1), 8: () => look(2),
};

function key(event) {
  const own = event.target.matches("input:not([type=checkbox]), select, textarea");
  const onButton = event.key === "Enter" && event.target.matches("button, summary, a");
  if (own || onButton || event.ctrlKey || event.metaKey || event.altKey || !(event.key in KEYS)) return;
  event.preventDefault();
  event.stopImmediatePropagation(); // NiiVue has keys of its own
  KEYS[event.key](event);
}

function listenToPointer() {
  let start = null;
  const image = $("image"), layers = $("layers");
  image.addEventListener("pointerdown", (event) => { start = event.button === 0 ? [event.clientX, event.clientY] : null; });
  image.addEventListener("pointerup", (event) => {
    const still = start && Math.hypot(event.clientX - start[0], event.clientY - start[1]) < 4;
    start = null;
    const found = still && state.tool === "click" && under(event);
    if (!found) return;
    moveTo(found.voxel);
    read(found.voxel);
  });
  for (const canvas of [image, layers])
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      event.stopImmediatePropagation();
      const found = under(event);
      if (event.ctrlKey) return zoom(event.deltaY < 0 ? 1.15 : 1 / 1.15);
      if (!found) return;
      const place = crosshair();
      place[found.tile.across] += event.deltaY < 0 ? 1 : -1;
      moveTo(place);
    }, { capture: true, passive: false });
  let last = null;
  const paint = (event) => {
    const found = under(event);
    if (!found) return;
    const kind = $("erase").checked ? 0 : Number($("kind").value || 1), { tile, place } = found;
    const steps = last && last.tile.across === tile.across ? Math.ceil(Math.hypot(place[tile.a] - last.place[tile.a], place[tile.b] - last.place[tile.b])) : 1;
    for (let i = 1; i <= steps; i++) {
      const between = last ? place.map((value, axis) => last.place[axis] + ((value - last.place[axis]) * i) / steps) : place;
      state.painting.dab(tile, between, Number($("size").value), kind, info.spacing);
    }
    last = found;
    redraw();
  };
  layers.addEventListener("pointerdown", (event) => { if (event.button === 0) { layers.setPointerCapture(event.pointerId); last = null; paint(event); } });
  layers.addEventListener("pointermove", (event) => { if (event.buttons & 1) paint(event); });
  layers.addEventListener("pointerup", () => { last = null; state.painting?.end(); });
}

// ---- masks and files

function edit(empty) {
  state.painting = new Painting(info.shape, info.classes.length);
  const shown = state.result?.hypotheses[Math.max(0, state.shown - 1)];
  const first = state.shown ? shown : state.result?.hypotheses.find((one) => !one.nothing);
  if (!empty && first) state.painting.take(first.mask);
  $("painting").hidden = false;
  choose("brush");
  redraw();
}

function discard() {
  state.painting = null;
  $("painting").hidden = true;
  choose("click");
  redraw();
}

async function save(replace = false) {
  try {
    const rater = $("rater").value.trim();
    const made = await (await post("mask", { rater, replace, slices: state.painting.packed() })).json();
    showRaters(made.raters);
    discard();
    say(`Saved as ${made.path}`);
  } catch (error) {
    if (!replace && error.message.includes("has a mask of this case") && confirm(`${error.message}. Replace it?`)) return save(true);
    say(error.message, true);
  }
}

async function download() {
  say("Writing files …");
  try {
    const data = await (await post("export", state.asked)).blob(), link = document.createElement("a");
    link.href = URL.createObjectURL(data);
    link.download = `modiff-${state.asked.at.join("-")}.zip`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60000);
    say(`Exported ${link.download}`);
  } catch (error) {
    say(error.message, true);
  }
}

// ---- start

async function load(channel) {
  await niivue.loadVolumes([{ url: `scan-${channel}.nii`, name: "scan.nii" }]);
  grey(Number($("window").value) || 0);
}

function wire() {
  document.querySelectorAll("[data-tool]").forEach((button) => (button.onclick = () => choose(button.dataset.tool)));
  document.querySelectorAll("[data-plane]").forEach((button) => (button.onclick = () => look(Number(button.dataset.plane))));
  Object.assign($("in"), { onclick: () => zoom(1.4) });
  Object.assign($("out"), { onclick: () => zoom(1 / 1.4) });
  $("fit").onclick = () => zoom(0);
  $("window").onchange = () => grey(Number($("window").value));
  $("channel").onchange = () => load(Number($("channel").value));
  $("step").oninput = () => step(Number($("step").value));
  $("fade").oninput = $("samples").onchange = redraw;
  $("given").onchange = $("slices").onchange = () => state.result && read(state.result.at, state.result.whole);
  $("whole").onclick = () => read(crosshair(), true);
  $("export").onclick = download;
  $("take").onclick = () => edit(false);
  $("empty").onclick = () => edit(true);
  $("discard").onclick = discard;
  $("save").onclick = () => save();
  $("undo").onclick = KEYS.z;
  $("size").oninput = () => ($("pixels").textContent = `${$("size").value} pixels`);
  $("size").oninput();
  addEventListener("keydown", key, { capture: true });
  listenToPointer();
}

async function start() {
  info = await (await fetch("describe")).json();
  const options = (items) => items.map((text, i) => new Option(text, i));
  document.title = `${info.name} – modiff view`;
  $("name").textContent = $("name").title = info.name;
  $("patient").textContent = Object.entries(info.patient).map(([word, text]) => `${word} ${text}`).join(", ");
  $("model").textContent = info.model;
  $("window").replaceChildren(...options(info.windows.map((one) => one.name)));
  $("channel").replaceChildren(...options(info.channels));
  $("channels").hidden = info.channels.length < 2;
  $("kind").replaceChildren(...info.classes.map((text, i) => new Option(text, i + 1)));
  $("kinds").hidden = info.classes.length < 2;
  niivue.opts.isOrientationTextVisible = info.placed;
  niivue.opts.showMeasureUnits = info.spacing !== null; // else it measures pixels
  $("planes").hidden = info.shape[0] === 1;
  $("whole").hidden = !info.whole;
  $("whole").textContent = `Hypotheses of the whole ${info.shape[0] > 1 ? "slice" : "image"} (Enter)`;
  $("slices").value = info.slices;
  $("slices").parentElement.hidden = info.shape[0] === 1;
  showRaters(info.raters);
  await niivue.attachTo("image");
  const drawScene = niivue.drawScene.bind(niivue);
  niivue.drawScene = () => { const said = drawScene(); draw(); return said; }; // layers never lag behind
  await load(0);
  wire();
  choose("click");
  look(info.shape[0] > 1 ? 3 : 0);
  draw();
  say(info.notes.join("; ") || "Click on a lesion.");
  if (info.results) {
    show(info.results);
    $("given").checked = info.results.given;
    moveTo(info.results.at);
    say(info.results.drawn);
  } else if (info.fits) await read(crosshair(), true);
}

// For tests and the browser's console.
window.modiffView = { state, niivue, crosshair, moveTo, ready: start().catch((error) => { say(error.message, true); throw error; }) };
