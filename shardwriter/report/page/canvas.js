// Axes and ticks on a canvas, in the colours of the page.

const PALETTE = ["#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9"];
const STATUSES = ["completed", "failed", "interrupted", "empty"];
const MARGIN = { left: 74, right: 14, top: 8 };

/** Return a colour of the style sheet, as it is in the scheme of now. */
function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}

/** Draw now, and again whenever the page's width or its scheme changes, until `stop` is aborted. */
function keepDrawn(draw, stop = new AbortController().signal) {
  let waits = false;
  const later = () => {
    if (waits) return;
    waits = true;
    requestAnimationFrame(() => { waits = false; draw(); });
  };
  window.addEventListener("resize", later, { signal: stop });
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", later, { signal: stop });
  draw();
  return later;
}

/** Clear a canvas at the resolution of the screen; return its context and size in CSS pixels. */
function cleared(canvas, height) {
  const ratio = window.devicePixelRatio || 1;
  canvas.style.height = `${height}px`;
  const width = canvas.clientWidth;
  canvas.width = Math.round(width * ratio);
  canvas.height = Math.round(height * ratio);
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.font = "11px system-ui, sans-serif";
  return { context, width, height };
}

/** Return round numbers from low to high, about `count` of them. */
function ticks(low, high, count) {
  const rough = (high - low) / count;
  if (!(rough > 0) || !Number.isFinite(rough)) return [low];
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((n) => n * power).find((n) => n >= rough * 0.999);
  const found = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++) found.push(i * step);
  return found;
}

/**
 * Draw axes around a box; return the scales from values to pixels.
 * `x` and `y` are [low, high]; an axis without a label below has no numbers there.
 */
function axes(context, width, height, { x, y, xLabel, yLabel, xScale = 1, yTicks = true }) {
  const bottom = height - (xLabel ? 34 : 8);
  const box = { left: MARGIN.left, right: width - MARGIN.right, top: MARGIN.top, bottom };
  const toX = (v) => box.left + ((v - x[0]) / (x[1] - x[0])) * (box.right - box.left);
  const toY = (v) => box.bottom - ((v - y[0]) / (y[1] - y[0])) * (box.bottom - box.top);
  context.strokeStyle = colour("rule");
  context.fillStyle = colour("faint");
  context.lineWidth = 1;
  context.beginPath();
  context.moveTo(box.left - 0.5, box.top);
  context.lineTo(box.left - 0.5, box.bottom + 0.5);
  context.lineTo(box.right, box.bottom + 0.5);
  context.stroke();
  context.textBaseline = "middle";
  context.textAlign = "right";
  if (yTicks) {
    for (const tick of ticks(y[0], y[1], Math.max(2, (box.bottom - box.top) / 34))) {
      context.fillText(plain(Number(tick.toPrecision(10))), box.left - 6, toY(tick));
      context.globalAlpha = 0.45;
      context.fillRect(box.left - 4, toY(tick) - 0.5, 4, 1);
      context.globalAlpha = 1;
    }
  }
  context.textAlign = "center";
  if (xLabel) {
    for (const tick of ticks(x[0] * xScale, x[1] * xScale, (box.right - box.left) / 90)) {
      const at = toX(tick / xScale);
      context.fillText(plain(Number(tick.toPrecision(10))), at, box.bottom + 11);
      context.fillRect(at - 0.5, box.bottom, 1, 4);
    }
    context.fillText(xLabel, (box.left + box.right) / 2, box.bottom + 26);
  }
  context.save();
  context.translate(9, (box.top + box.bottom) / 2);
  context.rotate(-Math.PI / 2);
  context.fillStyle = colour("ink");
  context.fillText(yLabel, 0, 0, box.bottom - box.top + 12);
  context.restore();
  const fromX = (px) => x[0] + ((px - box.left) / (box.right - box.left)) * (x[1] - x[0]);
  const fromY = (px) => y[0] + ((box.bottom - px) / (box.bottom - box.top)) * (y[1] - y[0]);
  return { box, toX, toY, fromX, fromY };
}

/** Keep what is drawn next inside a box. */
function clipped(context, box, draw) {
  context.save();
  context.beginPath();
  context.rect(box.left, box.top - 2, box.right - box.left + 2, box.bottom - box.top + 3);
  context.clip();
  draw();
  context.restore();
}

/** Add a status's mark to the path: its shape differs from the others', not its colour alone. */
function mark(context, status, x, y, r) {
  if (status === "failed") {
    context.moveTo(x - r, y - r); context.lineTo(x + r, y + r);
    context.moveTo(x + r, y - r); context.lineTo(x - r, y + r);
  } else if (status === "interrupted") {
    context.rect(x - r, y - r, 2 * r, 2 * r);
  } else if (status === "empty") {
    context.moveTo(x - r, y - r); context.lineTo(x + r, y - r); context.lineTo(x, y + r);
    context.closePath();
  } else {
    context.moveTo(x + r, y); context.arc(x, y, r, 0, 2 * Math.PI);
  }
}
