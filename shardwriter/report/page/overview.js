// A plot over all episodes for each of return, length and firing rate.

const OVERVIEW = { return: "return", steps: "length (steps)", rate: null };

/** Return the running mean of the completed episodes, where there are enough of them. */
function runningMean(values, statuses) {
  const rows = [...values.keys()].filter((i) => statuses[i] === "completed" && values[i] !== null);
  const width = Math.max(5, Math.floor(rows.length / 50));
  if (rows.length < 4 * width) return { width, points: [] };
  const points = [];
  let sum = 0;
  rows.forEach((row, i) => {
    sum += values[row] - (i >= width ? values[rows[i - width]] : 0);
    if (i >= width - 1) points.push([rows[i - ((width - 1) >> 1)], sum / width]);
  });
  return { width, points };
}

/** Draw one plot into a holder; return the running mean that it shows. */
function overviewPlot(holder, column, label, ids, statuses, isLast, find) {
  const values = column.values;
  const finite = values.filter((value) => value !== null);
  if (!finite.length) return { width: 0, points: [] };
  const low = Math.min(0, ...finite), high = finite.reduce((a, b) => Math.max(a, b), low);
  const y = [low, high > low ? high + 0.06 * (high - low) : low + 1];
  const pad = Math.max(0.5, 0.01 * (ids[ids.length - 1] - ids[0]));
  const x = [ids[0] - pad, ids[ids.length - 1] + pad];
  const mean = runningMean(values, statuses);
  const average = finite.reduce((a, b) => a + b, 0) / finite.length;
  const canvas = make("canvas", {
    role: "img",
    "aria-label": `${label} of ${finite.length} episodes: from ${plain(Math.min(...finite))} to `
      + `${plain(high)}, ${plain(average)} on average. The table below has every value.`,
  });
  const readout = make("div", { class: "readout", "aria-hidden": "true" });
  const many = ids.length > 400;
  let scales = null;
  holder.append(make("figure", {}, canvas, readout));
  keepDrawn(() => {
    const { context, width, height } = cleared(canvas, isLast ? 186 : 160);
    scales = axes(context, width, height, { x, y, yLabel: label, xLabel: isLast ? "episode" : "" });
    clipped(context, scales.box, () => {
      for (const status of STATUSES) {
        context.beginPath();
        ids.forEach((id, i) => {
          if (statuses[i] === status && values[i] !== null) {
            mark(context, status, scales.toX(id), scales.toY(values[i]), many ? 1.7 : 3.2);
          }
        });
        context.globalAlpha = many && status === "completed" ? 0.4 : 1;
        context.fillStyle = context.strokeStyle = colour(status);
        context.lineWidth = many ? 1.2 : 1.8;
        if (status === "failed") context.stroke();
        else context.fill();
      }
      context.globalAlpha = 1;
      context.beginPath();
      for (const [row, value] of mean.points) context.lineTo(scales.toX(ids[row]), scales.toY(value));
      context.strokeStyle = colour("ink");
      context.lineWidth = 1.6;
      context.stroke();
    });
  });
  const nearest = (event) => {
    let best = null, least = 15 ** 2;
    ids.forEach((id, i) => {
      if (values[i] === null) return;
      const d = (scales.toX(id) - event.offsetX) ** 2 + (scales.toY(values[i]) - event.offsetY) ** 2;
      if (d < least) [best, least] = [i, d];
    });
    return best;
  };
  canvas.addEventListener("mousemove", (event) => {
    const i = nearest(event);
    canvas.style.cursor = i === null ? "default" : "pointer";
    readout.textContent = i === null ? "" : `episode ${ids[i]} · ${statuses[i]} · ${label} ${plain(values[i])}`;
  });
  canvas.addEventListener("click", (event) => {
    const i = nearest(event);
    if (i !== null) find(ids[i]);
  });
  return mean;
}

function statusLegend(statuses, width) {
  const entries = STATUSES.filter((status) => statuses.includes(status)).map((status) => {
    const count = statuses.filter((each) => each === status).length;
    return [status, `${status} (${plain(count)})`];
  });
  const svg = (tag, attributes) => {
    const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    return made;
  };
  const shapes = {
    completed: "M6 2a4 4 0 1 0 .01 0z", interrupted: "M2 2h8v8h-8z", empty: "M2 2h8l-4 8z",
    failed: "M2 2L10 10M10 2L2 10", mean: "M0 6H12",
  };
  if (width) entries.push(["mean", `mean of ${plain(width)} completed`]);
  return entries.map(([name, text]) => {
    const stroked = name === "failed" || name === "mean";
    const paint = `var(--${name === "mean" ? "ink" : name})`;
    const path = svg("path", {
      d: shapes[name], fill: stroked ? "none" : paint, stroke: stroked ? paint : "none", "stroke-width": 2,
    });
    const icon = svg("svg", { viewBox: "0 0 12 12", "aria-hidden": "true" });
    icon.append(path);
    return make("span", {}, icon, text);
  });
}

/** Draw the overview; `find` shows an episode in the table. */
function showOverview(columns, find) {
  const column = (key) => columns.find((each) => each.key === key);
  const [ids, statuses] = [column("id").values, column("status").values];
  const shown = Object.keys(OVERVIEW).map(column).filter(Boolean);
  let width = 0;
  shown.forEach((each, i) => {
    const label = OVERVIEW[each.key] ?? each.heading;
    const isLast = i === shown.length - 1;
    const mean = overviewPlot(byId("overview-plots"), each, label, ids, statuses, isLast, find);
    if (mean.points.length) width = mean.width;
  });
  byId("overview-legend").append(...statusLegend(statuses, width));
}
