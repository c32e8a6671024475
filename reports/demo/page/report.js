/* Heat maps of the report page. Everything comes from files beside the page; nothing is fetched. Text from data goes
   through textContent only. OpenSeadragon, heat_layer.js and slide_view.js are loaded before. */
"use strict";
(() => {
  const byId = (name) => document.getElementById(`heat-${name}`);
  const index = JSON.parse(byId("index").textContent);
  const loaded = new Map();
  let view = null, slide = null, heat = null, chosen = -1;

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
    if (view) view.viewer.destroy();
    view = deeplrheView(byId("view"), slide, [slide.source], { paint, click });
    view.canvas.setAttribute("aria-label", "Slide with its heat map: arrow keys move, plus and minus zoom, 0 shows all");
    tell("");
    picks();
  }

  function tell(words) { byId("chosen").textContent = words; }
  const scores = () => slide.scores[byId("gene").value].map((v) => (v === null ? null : v / 1000));
  const ramp = () => index.palettes[byId("palette").value];
  const number = (name) => Number(byId(name).value);

  function paint(pen, at, box) {
    heat.paint(pen, at, box, { opacity: number("opacity"), threshold: number("threshold"), ramp: ramp() });
    if (chosen >= 0) deeplrheHeat.outline(pen, at, slide.windows[chosen]);
  }

  const click = (point) => choose(deeplrheHeat.find(slide.windows, ...point), false);
  const redraw = () => { if (view) view.redraw(); };

  function choose(i, move) {
    chosen = i;
    if (i < 0) { tell("No window was scored there."); redraw(); return; }
    const [x, y, side] = slide.windows[i], score = scores()[i];
    const said = score === null ? "not scored" : score.toFixed(3);
    tell(`${slide.name}: ${byId("gene").value} ${said}; window at x ${Math.round(x)}, y ${Math.round(y)}, side ` +
         `${Math.round(side)} level-0 px; rank ${rank(i)}.`);
    if (move) view.moveTo(x + side / 2, y + side / 2);
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

  function scale() {
    const canvas = byId("ramp"), pen = canvas.getContext("2d");
    ramp().forEach((one, i) => { pen.fillStyle = one; pen.fillRect(i, 0, 1, 1); });
  }

  byId("viewer").hidden = false;
  byId("slide").addEventListener("change", () => open(number("slide")));
  byId("gene").addEventListener("change", () => { picks(); if (chosen >= 0) choose(chosen, false); });
  byId("palette").addEventListener("change", () => { scale(); redraw(); });
  for (const name of ["opacity", "threshold"]) {
    byId(name).addEventListener("input", () => { byId(`${name}-told`).textContent = number(name).toFixed(2); redraw(); });
  }
  byId("in").addEventListener("click", () => { if (view) view.zoom(1.6); });
  byId("out").addEventListener("click", () => { if (view) view.zoom(1 / 1.6); });
  byId("whole").addEventListener("click", () => { if (view) view.home(); });
  scale();
  open(number("slide"));
})();
