/* A slide in OpenSeadragon with a canvas above it, for the report page and for the viewer in JupyterLab.
   All places are level-0 pixels of the slide. */
"use strict";
// slide: {width, height}; sources: what OpenSeadragon opens, the sharpest last; paint(pen, at, box): draws above the
// slide, with at and box as in heat_layer.js; click(point) and keys(), {key: act}: what the reader does beside moving.
// eslint-disable-next-line no-unused-vars
const deeplrheView = (element, slide, sources, { paint, click, keys = () => ({}), ...options }) => {
  let whole = true, aim = null;
  const viewer = OpenSeadragon({ element, tileSources: sources, drawer: "canvas", // a page from disk has no textures
    showNavigationControl: false, maxZoomPixelRatio: 16, visibilityRatio: 0.5, minZoomImageRatio: 0.8,
    gestureSettingsMouse: { clickToZoom: false }, clickTimeThreshold: 1500, dblClickTimeThreshold: 500,
    immediateRender: true, animationTime: matchMedia("(prefers-reduced-motion: reduce)").matches ? 0 : 0.6, ...options });
  const { canvas, viewport, world } = viewer, layer = document.createElement("canvas"), pen = layer.getContext("2d");
  layer.style.cssText = "position:absolute;inset:0;width:100%;height:100%;pointer-events:none";
  layer.setAttribute("aria-hidden", "true");
  canvas.append(layer);
  canvas.setAttribute("role", "application");

  const sharpest = () => world.getItemAt(world.getItemCount() - 1);
  const redraw = () => viewer.forceRedraw();
  const zoom = (factor) => { viewport.zoomBy(factor); viewport.applyConstraints(); };
  const centre = () => at(viewport.getContainerSize().divide(2));

  // Level-0 pixels → CSS pixels of the view. The picture may be a few per mille off the slide's shape, because its
  // sides are whole pixels: hence one scale for each direction.
  function place() {
    const item = sharpest(), origin = item.imageToViewerElementCoordinates(new OpenSeadragon.Point(0, 0));
    const end = item.imageToViewerElementCoordinates(item.getContentSize());
    return { left: origin.x, top: origin.y, x: (end.x - origin.x) / slide.width, y: (end.y - origin.y) / slide.height };
  }

  function at(position) {
    const to = place();
    return [(position.x - to.left) / to.x, (position.y - to.top) / to.y];
  }

  function moveTo(x, y) {
    aim = [x, y];
    const item = sharpest(), size = item && item.getContentSize();
    if (item) viewport.panTo(item.imageToViewportCoordinates(x / slide.width * size.x, y / slide.height * size.y));
  }

  viewer.addHandler("update-viewport", () => {
    const ratio = window.devicePixelRatio || 1, { x: width, y: height } = viewport.getContainerSize();
    layer.width = Math.round(width * ratio);
    layer.height = Math.round(height * ratio);
    pen.scale(ratio, ratio);
    paint(pen, place(), { width, height });
    whole = viewport.getZoom() < 1.001 * viewport.getHomeZoom();
  });
  viewer.addHandler("open", () => { viewport.goHome(true); if (aim) moveTo(...aim); });
  // The whole slide stays in sight when the view gets another size, or its first one.
  viewer.addHandler("resize", () => { if (whole) requestAnimationFrame(() => viewport.goHome(true)); });
  // Scrolling moves the page until the slide was clicked or reached by keyboard: it must not catch the reader passing by.
  viewer.addHandler("canvas-scroll", (event) => {
    event.preventDefault = canvas.contains(document.activeElement) || event.originalEvent.ctrlKey;
    event.preventDefaultAction = !event.preventDefault;
  });
  viewer.addHandler("canvas-click", (event) => { if (event.quick && sharpest()) click(at(event.position)); });
  viewer.addHandler("canvas-key", (event) => {
    const key = event.originalEvent, zooms = { "+": () => zoom(1.3), "=": () => zoom(1.3), "-": () => zoom(1 / 1.3) };
    if (key.ctrlKey || key.metaKey || key.altKey) return;
    key.stopPropagation(); // JupyterLab has shortcuts of its own for most letters
    const act = sharpest() && { ...zooms, ...keys() }[key.key];
    // OpenSeadragon's other keys turn, mirror and zoom by the place of a key; what is drawn above would not turn.
    event.preventDefaultAction = Boolean(act) || !/^(Arrow.+|0)$/.test(key.key);
    if (act) { key.preventDefault(); act(); }
  });
  return { viewer, canvas, redraw, zoom, centre, moveTo, home: () => viewport.goHome() };
};
