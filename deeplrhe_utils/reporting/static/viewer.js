/* The viewer in JupyterLab: OpenSeadragon asks for tiles and gets them through the kernel's own channel, so that no
   port beside Jupyter's is needed. OpenSeadragon, heat_layer.js and slide_view.js stand before this file. */
const MOST_WAITING = 6, NEAR_PX = 8;

function render({ model, el }) {
  const [bar, box, status] = ["bar", "view", "status"].map((name) => {
    const part = document.createElement("div");
    part.className = `deeplrhe-${name}`;
    el.append(part);
    return part;
  });
  const waiting = new Map();
  let slide = null, view = null, windows = [], heat = null, draft = [], scale = 1;

  el.classList.add("deeplrhe-viewer");
  status.setAttribute("role", "status");
  for (const [label, name, act] of [["+", "Zoom in", () => view.zoom(1.6)], ["−", "Zoom out", () => view.zoom(1 / 1.6)],
                                    ["Whole slide", "", () => view.home()]]) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = label;
    if (name) button.setAttribute("aria-label", name);
    button.addEventListener("click", () => { if (view) act(); });
    bar.append(button);
  }

  // ---- what Python says

  function opened() {
    close();
    slide = model.get("slide");
    draft = [];
    if (slide.width) {
      const overview = URL.createObjectURL(new Blob([model.get("overview")], { type: "image/jpeg" }));
      view = deeplrheView(box, slide, [{ type: "image", url: overview, buildPyramid: false }, tiles(slide)],
                          { paint, click, keys, imageLoaderLimit: MOST_WAITING });
      view.viewer.addHandler("open", () => URL.revokeObjectURL(overview));
      view.viewer.addHandler("canvas-double-click", (event) => {
        event.preventDefaultAction = model.get("drawing");
        if (model.get("drawing")) finish();
      });
    }
    scored();
    label();
  }

  function close() {
    if (view) view.viewer.destroy();
    view = null;
    waiting.clear();
  }

  const tiles = ({ version, picture: [width, height], tile_px, overlap_px }) => ({
    width, height, tileSize: tile_px, tileOverlap: overlap_px,
    getTileUrl: (level, column, row) => `${version}/${level}/${column}/${row}`,
    downloadTileStart: (job) => {
      clearTimeout(job.jobId); // a kernel that is busy with a cell answers when that is done, however long it takes
      waiting.set(job.src, job);
      model.send({ kind: "tile", version, key: job.src, level: job.tile.level, column: job.tile.x, row: job.tile.y });
    },
  });

  function received(content, buffers) {
    const job = content.kind === "tile" && waiting.get(content.key);
    if (!job) return;
    waiting.delete(content.key);
    if (buffers.length) job.finish(new Blob([buffers[0]], { type: "image/jpeg" }), null, "rasterBlob");
    else { tell(content.problem); job.fail(content.problem, null); }
  }

  function scored() {
    const places = floats("windows"), scores = floats("scores");
    windows = Array.from({ length: places.length / 3 }, (_, i) => [...places.subarray(3 * i, 3 * i + 3)]);
    heat = deeplrheHeat.create(slide, windows, Array.from(scores, (v) => (Number.isNaN(v) ? null : v)));
    redraw();
  }

  function floats(name) {
    const bytes = model.get(name);
    return new Float32Array(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength));
  }

  function label() {
    const drawing = model.get("drawing");
    if (view) {
      view.canvas.setAttribute("aria-label", `${slide.name}: ` + (drawing
        ? "Space or click sets a corner, Enter or double click closes, Backspace takes one back, Escape gives up"
        : "arrow keys move, plus and minus zoom, 0 shows all, n and p choose the next and the previous window"));
      view.canvas.style.cursor = drawing ? "crosshair" : "grab";
    }
    tell(drawing ? `Drawing: ${draft.length} corners. Enter or double click closes the outline.` : "");
  }

  const tell = (words) => { status.textContent = words; };

  // ---- drawing

  const redraw = () => { if (view) view.redraw(); };

  function paint(pen, at, { width, height }) {
    scale = at.x;
    heat.paint(pen, at, { width, height }, {
      opacity: model.get("opacity"), threshold: model.get("threshold"), ramp: model.get("ramp"),
    });
    for (const ring of model.get("known")) path(pen, at, ring, "#ffffff", "#00695c", true);
    for (const ring of model.get("rings")) path(pen, at, ring, "#000000", "#ffd400", true);
    path(pen, at, draft, "#000000", "#ffd400", false);
    const chosen = model.get("chosen");
    if (windows[chosen]) deeplrheHeat.outline(pen, at, windows[chosen]);
    pen.fillStyle = "#111111";
    if (model.get("drawing")) { // where Space sets a corner
      pen.fillRect(width / 2 - 7, height / 2 - 0.5, 14, 1);
      pen.fillRect(width / 2 - 0.5, height / 2 - 7, 1, 14);
    }
    if (slide.mpp) scaleBar(pen, height);
  }

  function path(pen, at, ring, ground, line, closed) {
    for (const [colour, width] of [[ground, 4], [line, 2]]) {
      pen.strokeStyle = colour;
      pen.lineWidth = width;
      pen.beginPath();
      for (const [x, y] of ring) pen.lineTo(at.left + x * at.x, at.top + y * at.y);
      if (closed) pen.closePath();
      pen.stroke();
    }
    pen.fillStyle = line;
    if (!closed) for (const [x, y] of ring) pen.fillRect(at.left + x * at.x - 3, at.top + y * at.y - 3, 6, 6);
  }

  function scaleBar(pen, height) {
    const most = 140 / scale * slide.mpp, power = 10 ** Math.floor(Math.log10(most));
    const length = [5, 2, 1].map((step) => step * power).find((one) => one <= most), wide = length / slide.mpp * scale;
    pen.fillStyle = "rgba(255, 255, 255, 0.85)";
    pen.fillRect(8, height - 34, wide + 16, 27);
    pen.fillStyle = "#111111";
    pen.fillRect(16, height - 14, wide, 3);
    pen.font = "12px sans-serif";
    pen.fillText(length >= 1000 ? `${length / 1000} mm` : `${length} µm`, 16, height - 19);
  }

  // ---- what the reader does

  function say(name, value) { model.set(name, value); model.save_changes(); redraw(); }
  function sketch(corners) { draft = corners; label(); redraw(); }

  function finish() {
    if (draft.length < 3) { tell("An outline needs at least three corners."); return; }
    say("rings", [...model.get("rings"), draft]);
    sketch([]);
  }

  function click(point) {
    if (!model.get("drawing")) { say("chosen", deeplrheHeat.find(windows, ...point)); return; }
    const last = draft[draft.length - 1]; // the second click of a double click sets no corner of its own
    if (!last || Math.hypot(last[0] - point[0], last[1] - point[1]) * scale > NEAR_PX) sketch([...draft, point]);
  }

  function keys() {
    const chosen = model.get("chosen"), count = windows.length;
    if (model.get("drawing")) return {
      " ": () => sketch([...draft, view.centre()]), Enter: finish, Backspace: () => sketch(draft.slice(0, -1)),
      Escape: () => sketch([]),
    };
    return count ? {
      n: () => say("chosen", (chosen + 1) % count), p: () => say("chosen", (Math.max(chosen, 0) + count - 1) % count),
    } : {};
  }

  const watched = {
    "change:slide": opened, "change:scores": scored, "change:drawing": () => sketch([]), "msg:custom": received,
    "change:centre": () => { if (view) view.moveTo(...model.get("centre")); },
  };
  for (const name of ["opacity", "threshold", "ramp", "known", "rings", "chosen"]) watched[`change:${name}`] = redraw;
  for (const [event, act] of Object.entries(watched)) model.on(event, act);
  opened();
  return () => { close(); for (const [event, act] of Object.entries(watched)) model.off(event, act); };
}

export default { render };
