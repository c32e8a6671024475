/* Deep-zoom viewer for JupyterLab. Tiles are asked for and answered through the kernel's own channel, so that no port
   beside Jupyter's is needed. heat_layer.js stands before this file. All places are level-0 pixels of the slide. */
const MOST_TILES = 300, MOST_WAITING = 6, NEAR_PX = 8;

function render({ model, el }) {
  const canvas = document.createElement("canvas"), bar = document.createElement("div");
  const status = document.createElement("div"), ratio = window.devicePixelRatio || 1;
  const view = { x: 0, y: 0, scale: 1 };
  const tiles = new Map(), waiting = new Set(), failed = new Set();
  let slide = null, windows = [], heat = null, overview = null, draft = [], dirty = false, drag = null;
  let fitted = true; // the whole slide is shown: it stays so when the window gets another size

  el.classList.add("deeplrhe-viewer");
  el.setAttribute("data-lm-suppress-shortcuts", "true");
  canvas.tabIndex = 0;
  canvas.setAttribute("role", "application");
  status.setAttribute("role", "status");
  status.className = "deeplrhe-status";
  bar.className = "deeplrhe-bar";
  for (const [label, name, act] of [["+", "Zoom in", () => zoom(1.6)], ["−", "Zoom out", () => zoom(1 / 1.6)],
                                    ["Whole slide", "", whole]]) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = label;
    if (name) button.setAttribute("aria-label", name);
    button.addEventListener("click", act);
    bar.append(button);
  }
  el.append(bar, canvas, status);

  // ---- what Python says

  function opened() {
    slide = model.get("slide");
    tiles.clear();
    waiting.clear();
    failed.clear();
    draft = [];
    overview = null;
    scored();
    label();
    if (!slide.width) { redraw(); return; }
    const version = slide.version;
    createImageBitmap(new Blob([model.get("overview")], { type: "image/jpeg" })).then((picture) => {
      if (slide.version === version) { overview = picture; redraw(); }
    });
    whole();
  }

  function scored() {
    const places = floats(model.get("windows")), scores = floats(model.get("scores"));
    windows = [];
    for (let i = 0; i + 2 < places.length; i += 3) windows.push([places[i], places[i + 1], places[i + 2]]);
    heat = deeplrheHeat.create(slide, windows, Array.from(scores, (v) => (Number.isNaN(v) ? null : v)));
    redraw();
  }

  function floats(bytes) {
    if (!bytes || !bytes.byteLength) return new Float32Array(0);
    return new Float32Array(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength));
  }

  function label() {
    const drawing = model.get("drawing");
    canvas.setAttribute("aria-label", `${slide.name || "No slide"}: ` + (drawing
      ? "Space or click sets a corner, Enter or double click closes, Backspace takes one back, Escape gives up"
      : "arrow keys move, plus and minus zoom, 0 shows all, n and p choose the next and the previous window"));
    canvas.style.cursor = drawing ? "crosshair" : "grab";
    tell(drawing ? `Drawing: ${draft.length} corners. Enter or double click closes the outline.` : "");
  }

  const tell = (words) => { status.textContent = words; };

  function received(content, buffers) {
    if (content.kind !== "tile" || content.version !== slide.version) return;
    const key = content.key;
    waiting.delete(key);
    if (!buffers.length) { failed.add(key); tell(content.problem); redraw(); return; }
    createImageBitmap(new Blob([buffers[0]], { type: "image/jpeg" })).then((picture) => {
      if (content.version !== slide.version) return;
      tiles.set(key, picture);
      for (const old of tiles.keys()) { if (tiles.size <= MOST_TILES) break; tiles.delete(old); }
      redraw();
    });
  }

  // ---- where things are

  const box = () => ({ width: canvas.clientWidth || 1, height: canvas.clientHeight || 1 });
  function place() {
    const { width, height } = box();
    return { left: width / 2 - view.x * view.scale, top: height / 2 - view.y * view.scale, x: view.scale, y: view.scale };
  }
  function toSlide(event) {
    const at = place(), edge = canvas.getBoundingClientRect();
    const x = event.clientX - edge.left - canvas.clientLeft, y = event.clientY - edge.top - canvas.clientTop;
    return [(x - at.left) / at.x, (y - at.top) / at.y];
  }

  function whole() {
    if (!slide.width) return;
    const { width, height } = box();
    Object.assign(view, { x: slide.width / 2, y: slide.height / 2 });
    view.scale = 0.96 * Math.min(width / slide.width, height / slide.height);
    fitted = true;
    redraw();
  }

  function zoom(factor, about = [view.x, view.y]) {
    if (!slide.width) return;
    const { width, height } = box(), fit = Math.min(width / slide.width, height / slide.height);
    const scale = Math.max(0.3 * fit, Math.min(Math.max(8, 2 * fit), view.scale * factor)), real = scale / view.scale;
    view.x = about[0] + (view.x - about[0]) / real;
    view.y = about[1] + (view.y - about[1]) / real;
    view.scale = scale;
    keep();
  }

  function move(x, y) { view.x += x / view.scale; view.y += y / view.scale; keep(); }

  function keep() {
    fitted = false;
    view.x = Math.max(0, Math.min(slide.width, view.x));
    view.y = Math.max(0, Math.min(slide.height, view.y));
    redraw();
  }

  // ---- drawing

  function redraw() { if (!dirty) { dirty = true; requestAnimationFrame(draw); } }

  function draw() {
    dirty = false;
    const { width, height } = box(), pen = canvas.getContext("2d");
    if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
      canvas.width = Math.round(width * ratio);
      canvas.height = Math.round(height * ratio);
    }
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.fillStyle = "#ffffff";
    pen.fillRect(0, 0, width, height);
    if (!slide || !slide.width) return;
    const at = place();
    if (overview) pen.drawImage(overview, at.left, at.top, slide.width * at.x, slide.height * at.y);
    drawTiles(pen, at, width, height);
    heat.paint(pen, at, { width, height }, {
      opacity: model.get("opacity"), threshold: model.get("threshold"), ramp: model.get("ramp"),
    });
    for (const ring of model.get("known")) path(pen, at, ring, "#ffffff", "#00695c", true);
    for (const ring of model.get("rings")) path(pen, at, ring, "#000000", "#ffd400", true);
    path(pen, at, draft, "#000000", "#ffd400", false);
    const chosen = model.get("chosen");
    if (windows[chosen]) deeplrheHeat.outline(pen, at, windows[chosen]);
    if (model.get("drawing")) cross(pen, width / 2, height / 2);
    scaleBar(pen, height);
  }

  function drawTiles(pen, at, width, height) {
    const top = slide.levels.length - 1, [across, down] = slide.scale, side = slide.tile_px;
    let wanted = top;
    while (wanted > 0 && view.scale * ratio * across * 2 ** (top - wanted + 1) <= 1.2) wanted--;
    const missing = [];
    for (let level = Math.max(0, wanted - 4); level <= wanted; level++) {
      const [, , columns, rows] = slide.levels[level], stepX = 2 ** (top - level) * across, stepY = 2 ** (top - level) * down;
      const first = (edge, step) => Math.floor(-edge / step / side);
      const from = Math.max(0, first(at.left / at.x, stepX)), low = Math.max(0, first(at.top / at.y, stepY));
      const to = Math.min(columns - 1, first((at.left - width) / at.x, stepX));
      const high = Math.min(rows - 1, first((at.top - height) / at.y, stepY));
      for (let row = low; row <= high; row++) for (let column = from; column <= to; column++) {
        const key = `${level}/${column}/${row}`, picture = tiles.get(key);
        if (!picture) { if (level === wanted) missing.push({ key, level, column, row }); continue; }
        tiles.delete(key); // to the end: what is seen is forgotten last
        tiles.set(key, picture);
        const x = (column * side - (column ? slide.overlap_px : 0)) * stepX;
        const y = (row * side - (row ? slide.overlap_px : 0)) * stepY;
        pen.drawImage(picture, at.left + x * at.x, at.top + y * at.y,
                      picture.width * stepX * at.x, picture.height * stepY * at.y);
      }
    }
    ask(missing, side * 2 ** (top - wanted) * across, side * 2 ** (top - wanted) * down);
  }

  function ask(missing, wide, high) {
    const far = ({ column, row }) => Math.hypot((column + 0.5) * wide - view.x, (row + 0.5) * high - view.y);
    for (const tile of missing.sort((a, b) => far(a) - far(b))) {
      if (waiting.size >= MOST_WAITING) break;
      if (waiting.has(tile.key) || failed.has(tile.key)) continue;
      waiting.add(tile.key);
      model.send({ kind: "tile", version: slide.version, ...tile });
    }
  }

  function path(pen, at, ring, ground, line, closed) {
    if (!ring.length) return;
    for (const [colour, width] of [[ground, 4], [line, 2]]) {
      pen.strokeStyle = colour;
      pen.lineWidth = width;
      pen.beginPath();
      ring.forEach(([x, y], i) => pen[i ? "lineTo" : "moveTo"](at.left + x * at.x, at.top + y * at.y));
      if (closed) pen.closePath();
      pen.stroke();
    }
    if (closed) return;
    pen.fillStyle = line;
    for (const [x, y] of ring) pen.fillRect(at.left + x * at.x - 3, at.top + y * at.y - 3, 6, 6);
  }

  function cross(pen, x, y) {
    pen.strokeStyle = "#111111";
    pen.lineWidth = 1;
    pen.beginPath();
    pen.moveTo(x - 7, y); pen.lineTo(x + 7, y); pen.moveTo(x, y - 7); pen.lineTo(x, y + 7);
    pen.stroke();
  }

  function scaleBar(pen, height) {
    if (!slide.mpp) return;
    const most = 140 / view.scale * slide.mpp, power = 10 ** Math.floor(Math.log10(most));
    const length = [5, 2, 1].map((step) => step * power).find((one) => one <= most);
    const wide = length / slide.mpp * view.scale, words = length >= 1000 ? `${length / 1000} mm` : `${length} µm`;
    pen.fillStyle = "rgba(255, 255, 255, 0.85)";
    pen.fillRect(8, height - 34, wide + 16, 27);
    pen.fillStyle = "#111111";
    pen.fillRect(16, height - 14, wide, 3);
    pen.font = "12px sans-serif";
    pen.fillText(words, 16, height - 19);
  }

  // ---- what the reader does

  function choose(place) {
    model.set("chosen", place);
    model.save_changes();
    redraw();
  }

  function corner(point) { draft.push(point); label(); redraw(); }

  function close() {
    if (draft.length < 3) { tell("An outline needs at least three corners."); return; }
    model.set("rings", [...model.get("rings"), draft]);
    model.save_changes();
    draft = [];
    label();
    redraw();
  }

  canvas.addEventListener("pointerdown", (event) => {
    if (event.button !== 0 || !slide.width) return;
    canvas.focus();
    canvas.setPointerCapture(event.pointerId);
    drag = { x: event.clientX, y: event.clientY, moved: 0 };
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!drag) return;
    const x = drag.x - event.clientX, y = drag.y - event.clientY;
    drag = { x: event.clientX, y: event.clientY, moved: drag.moved + Math.hypot(x, y) };
    if (drag.moved > 3) move(x, y);
  });
  canvas.addEventListener("pointerup", (event) => {
    const clicked = drag && drag.moved <= 3;
    drag = null;
    if (!clicked) return;
    const point = toSlide(event);
    if (!model.get("drawing")) { choose(deeplrheHeat.find(windows, ...point)); return; }
    const last = draft[draft.length - 1]; // the second click of a double click sets no corner of its own
    if (!last || Math.hypot(last[0] - point[0], last[1] - point[1]) * view.scale > NEAR_PX) corner(point);
  });
  canvas.addEventListener("pointercancel", () => { drag = null; });
  canvas.addEventListener("dblclick", () => { if (model.get("drawing")) close(); });
  // Scrolling moves the notebook until the viewer is clicked: it must not swallow the reader on the way past.
  canvas.addEventListener("wheel", (event) => {
    if (document.activeElement !== canvas && !event.ctrlKey) return;
    event.preventDefault();
    zoom(Math.exp(-event.deltaY / 400), toSlide(event));
  }, { passive: false });
  canvas.addEventListener("keydown", (event) => {
    const drawing = model.get("drawing"), chosen = model.get("chosen"), count = windows.length;
    const acts = {
      ArrowLeft: () => move(-60, 0), ArrowRight: () => move(60, 0), ArrowUp: () => move(0, -60),
      ArrowDown: () => move(0, 60), "+": () => zoom(1.3), "=": () => zoom(1.3), "-": () => zoom(1 / 1.3), 0: whole,
    };
    if (drawing) Object.assign(acts, {
      " ": () => corner([view.x, view.y]), Enter: close, Backspace: () => { draft.pop(); label(); redraw(); },
      Escape: () => { draft = []; label(); redraw(); },
    });
    else if (count) Object.assign(acts, {
      n: () => choose((chosen + 1) % count), p: () => choose((Math.max(chosen, 0) + count - 1) % count),
    });
    if (event.ctrlKey || event.metaKey || event.altKey || !acts[event.key]) return;
    event.preventDefault();
    event.stopPropagation(); // JupyterLab has shortcuts of its own for most letters
    acts[event.key]();
  });

  const watched = {
    "change:slide": opened, "change:scores": scored, "change:drawing": () => { draft = []; label(); redraw(); },
    "change:centre": () => { [view.x, view.y] = model.get("centre"); keep(); }, "msg:custom": received,
  };
  for (const name of ["opacity", "threshold", "ramp", "known", "rings", "chosen"]) watched[`change:${name}`] = redraw;
  for (const [event, act] of Object.entries(watched)) model.on(event, act);
  const sized = new ResizeObserver(() => (fitted && slide ? whole() : redraw()));
  sized.observe(canvas);
  opened();
  requestAnimationFrame(whole); // only now the canvas has its size
  return () => { sized.disconnect(); for (const [event, act] of Object.entries(watched)) model.off(event, act); };
}

export default { render };
