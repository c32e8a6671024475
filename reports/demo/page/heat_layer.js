/* Windows and their scores on a canvas, for the report page and for the viewer in JupyterLab.

   Windows that do not overlap are drawn as the squares they are. Where windows overlap, or are many, the mean score of
   the windows that cover each pixel of a map is drawn: a map pixel takes a window's score when its centre lies inside.
   All places are level-0 pixels. */
"use strict";
const deeplrheHeat = (() => { // eslint-disable-line no-unused-vars
  const MOST_SQUARES = 4000, LONGEST_MAP_PX = 1024;

  // slide: {width, height}; windows: [[x, y, side], …]; scores: numbers in [0, 1], or null where there is none.
  function create(slide, windows, scores) {
    const overlapping = overlap(windows);
    let picture = null, drawnWith = "";

    // at: {left, top, x, y}, the place of level-0 (0, 0) and CSS pixels per level-0 pixel in both directions.
    function paint(pen, at, box, look) {
      pen.globalAlpha = look.opacity;
      if (overlapping || windows.length > MOST_SQUARES) paintMap(pen, at, look);
      else paintSquares(pen, at, box, look);
      pen.globalAlpha = 1;
    }

    function paintSquares(pen, at, box, look) {
      windows.forEach(([x, y, side], i) => {
        if (scores[i] === null || scores[i] < look.threshold) return;
        const left = at.left + x * at.x, top = at.top + y * at.y, wide = side * at.x, high = side * at.y;
        if (left > box.width || top > box.height || left + wide < 0 || top + high < 0) return;
        pen.fillStyle = look.ramp[step(scores[i])];
        pen.fillRect(left, top, wide, high);
      });
    }

    function paintMap(pen, at, look) {
      const wanted = `${look.threshold} ${look.ramp[0]} ${look.ramp[255]}`;
      if (wanted !== drawnWith) { picture = map(look); drawnWith = wanted; }
      pen.imageSmoothingEnabled = false;
      pen.drawImage(picture, at.left, at.top, slide.width * at.x, slide.height * at.y);
      pen.imageSmoothingEnabled = true;
    }

    function map(look) {
      const scale = Math.max(1, Math.max(slide.width, slide.height) / LONGEST_MAP_PX);
      const width = Math.ceil(slide.width / scale), height = Math.ceil(slide.height / scale);
      const total = new Float32Array(width * height), count = new Uint16Array(width * height);
      const stepX = slide.width / width, stepY = slide.height / height;
      const first = (edge, one) => Math.max(0, Math.ceil(edge / one - 0.5));
      windows.forEach(([x, y, side], i) => {
        if (scores[i] === null) return;
        const right = Math.min(width, first(x + side, stepX)), low = Math.min(height, first(y + side, stepY));
        for (let row = first(y, stepY); row < low; row++)
          for (let column = first(x, stepX); column < right; column++) {
            total[row * width + column] += scores[i];
            count[row * width + column] += 1;
          }
      });
      const canvas = document.createElement("canvas");
      canvas.width = width;
      canvas.height = height;
      const pen = canvas.getContext("2d"), pixels = pen.createImageData(width, height);
      const colours = look.ramp.map((hex) => [1, 3, 5].map((from) => parseInt(hex.slice(from, from + 2), 16)));
      for (let i = 0; i < total.length; i++) {
        const mean = total[i] / count[i];
        if (!count[i] || mean < look.threshold) continue;
        pixels.data.set([...colours[step(mean)], 255], 4 * i);
      }
      pen.putImageData(pixels, 0, 0);
      return canvas;
    }

    return { paint };
  }

  const step = (score) => Math.max(0, Math.min(255, Math.floor(score * 256)));

  // A sweep over sorted left edges; windows that touch do not overlap.
  function overlap(windows) {
    const order = [...windows].sort((a, b) => a[0] - b[0]);
    for (let i = 0; i < order.length && order.length <= MOST_SQUARES; i++)
      for (let j = i + 1; j < order.length && order[j][0] < order[i][0] + order[i][2] - 0.5; j++)
        if (order[j][1] < order[i][1] + order[i][2] - 0.5 && order[i][1] < order[j][1] + order[j][2] - 0.5) return true;
    return false;
  }

  // Index of the window under a place; where several are, the one whose centre is nearest. -1 when there is none.
  function find(windows, x, y) {
    let best = -1, nearest = Infinity;
    windows.forEach(([left, top, side], i) => {
      if (x < left || y < top || x >= left + side || y >= top + side) return;
      const far = Math.hypot(x - left - side / 2, y - top - side / 2);
      if (far < nearest) { nearest = far; best = i; }
    });
    return best;
  }

  function outline(pen, at, [x, y, side]) {
    for (const [line, width] of [["#ffffff", 5], ["#111111", 2.5]]) {
      pen.strokeStyle = line;
      pen.lineWidth = width;
      pen.strokeRect(at.left + x * at.x, at.top + y * at.y, side * at.x, side * at.y);
    }
  }

  return { create, find, outline };
})();
