/* Heat maps of the report page: OpenSeadragon shows the slide, a canvas above it the windows and their scores.
   Everything comes from files beside the page; nothing is fetched. Text from data goes through textContent only. */
"use strict";
(() => {
  const byId = (name) => document.getElementById(`heat-${name}`);
  const index = JSON.parse(byId("index").textContent);
  const loaded = new Map();
  let viewer = null, slide = null, heat = null, chosen = -1, layer = null, dirty = false;

  // A script of the run folder calls this with its slide.
  window.deeplrheSlide = (number, content) => {
    loaded.set(number, content);
    if (Number(byId("slide").value) === number) show(content);
  };

  function open(number) {
    if (loaded.has(number)) { show(loaded.get(number)); return; }
    tell("Loading the slide …");
    const script = document.createElement("script");
    script.src = index.slides[number];
    script.onerror = () => tell(`${index.slides[number]} is missing beside this page.`);
    document.head.append(script);
  }

  function show(content) {
    slide = content;
    chosen = -1;
    viewer.open(slide.source);
    tell("");
    picks();
  }

  function tell(words) { byId("chosen").textContent = words; }
  const scores = () => slide.scores[byId("gene").value].map((v) => (v === null ? null : v / 1000));
  const ramp = () => index.palettes[byId("palette").value];
  const number = (name) => Number(byId(name).value);

  // Level-0 pixels → CSS pixels of the view. The picture may be a few per mille off the slide's shape, because its
  // sides are whole pixels: hence one scale for each direction.
  function place() {
    const item = viewer.world.getItemAt(0);
    if (!item) return null;
    const size = item.getContentSize();
    const origin = item.imageToViewerElementCoordinates(new OpenSeadragon.Point(0, 0));
    const end = item.imageToViewerElementCoordinates(size);
    return { left: origin.x, top: origin.y, x: (end.x - origin.x) / slide.width, y: (end.y - origin.y) / slide.height };
  }

  function draw() {
    dirty = false;
    if (!slide || !layer) return;
    const ratio = window.devicePixelRatio || 1, box = viewer.element.getBoundingClientRect();
    layer.width = Math.round(box.width * ratio);
    layer.height = Math.round(box.height * ratio);
    const pen = layer.getContext("2d"), at = place();
    if (!at || !heat) return;
    pen.scale(ratio, ratio);
    heat.paint(pen, at, box, { opacity: number("opacity"), threshold: number("threshold"), ramp: ramp() });
    if (chosen >= 0) deeplrheHeat.outline(pen, at, slide.windows[chosen]);
  }

  function redraw() { if (!dirty) { dirty = true; requestAnimationFrame(draw); } }

  function choose(i, move) {
    chosen = i;
    if (i < 0) { tell("No window was scored there."); redraw(); return; }
    const [x, y, side] = slide.windows[i], score = scores()[i];
    const said = score === null ? "not scored" : score.toFixed(3);
    tell(`${slide.name}: ${byId("gene").value} ${said}; window at x ${Math.round(x)}, y ${Math.round(y)}, side ` +
         `${Math.round(side)} level-0 px; rank ${rank(i)}.`);
    if (move) {
      const item = viewer.world.getItemAt(0), size = item.getContentSize();
      const centre = new OpenSeadragon.Point((x + side / 2) / slide.width * size.x, (y + side / 2) / slide.height * size.y);
      viewer.viewport.panTo(item.imageToViewportCoordinates(centre));
    }
    redraw();
  }

  function rank(i) {
    const own = scores();
    if (own[i] === null) return "none";
    const scored = own.filter((v) => v !== null);
    return `${1 + scored.filter((v) => v > own[i]).length} of ${scored.length}`;
  }

  function picks() {
    const own = scores(), list = byId("picks");
    heat = deeplrheHeat.create(slide, slide.windows, own);
    const order = own.map((v, i) => i).filter((i) => own[i] !== null).sort((a, b) => own[b] - own[a]).slice(0, 5);
    list.replaceChildren(...order.map((i, place) => {
      const item = document.createElement("li"), button = document.createElement("button");
      button.type = "button";
      button.textContent = `${place + 1}. score ${own[i].toFixed(3)}`;
      button.addEventListener("click", () => choose(i, true));
      item.append(button);
      return item;
    }));
    if (!order.length) {
      const item = document.createElement("li");
      item.textContent = "This slide has no score for this target.";
      list.replaceChildren(item);
    }
    redraw();
  }

  function at(position) {
    const to = place();
    return deeplrheHeat.find(slide.windows, (position.x - to.left) / to.x, (position.y - to.top) / to.y);
  }

  function scale() {
    const canvas = byId("ramp"), pen = canvas.getContext("2d");
    ramp().forEach((one, i) => { pen.fillStyle = one; pen.fillRect(i, 0, 1, 1); });
  }

  byId("viewer").hidden = false;
  // Canvas, not WebGL: pictures of a page opened from disk may not become textures.
  viewer = OpenSeadragon({ element: byId("view"), drawer: "canvas", showNavigationControl: false, maxZoomPixelRatio: 16,
    visibilityRatio: 0.5, minZoomImageRatio: 0.8, gestureSettingsMouse: { clickToZoom: false },
    immediateRender: true, animationTime: matchMedia("(prefers-reduced-motion: reduce)").matches ? 0 : 0.6 });
  layer = document.createElement("canvas");
  layer.style.cssText = "position:absolute;inset:0;width:100%;height:100%;pointer-events:none";
  layer.setAttribute("aria-hidden", "true");
  viewer.canvas.append(layer);
  viewer.canvas.setAttribute("role", "application");
  viewer.canvas.setAttribute("aria-label", "Slide with its heat map: arrow keys move, plus and minus zoom, 0 shows all");
  viewer.addHandler("open", () => { viewer.viewport.goHome(true); redraw(); });
  for (const event of ["animation", "resize", "update-viewport", "tile-drawn"]) viewer.addHandler(event, redraw);
  // Scrolling moves the page until the slide was clicked or reached by keyboard: it must not catch the reader passing by.
  viewer.addHandler("canvas-scroll", (event) => {
    const wanted = viewer.canvas.contains(document.activeElement) || event.originalEvent.ctrlKey;
    event.preventDefaultAction = !wanted;
    event.preventDefault = wanted;
  });
  viewer.addHandler("canvas-click", (event) => { if (event.quick && slide) choose(at(event.position), false); });
  byId("slide").addEventListener("change", () => open(number("slide")));
  byId("gene").addEventListener("change", () => { picks(); if (chosen >= 0) choose(chosen, false); });
  byId("palette").addEventListener("change", () => { scale(); redraw(); });
  for (const name of ["opacity", "threshold"]) {
    byId(name).addEventListener("input", () => { byId(`${name}-told`).textContent = number(name).toFixed(2); redraw(); });
  }
  byId("in").addEventListener("click", () => viewer.viewport.zoomBy(1.6));
  byId("out").addEventListener("click", () => viewer.viewport.zoomBy(1 / 1.6));
  byId("whole").addEventListener("click", () => viewer.viewport.goHome());
  scale();
  open(number("slide"));
})();
