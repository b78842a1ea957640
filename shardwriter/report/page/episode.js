// One episode closer: raster, rate, curves and path over one axis of time that can be zoomed.

const MOST_MARKS = 15_000; // spikes drawn one by one; more are drawn as their density
const RATE_BINS = 240;

/** Unpack all that an episode's drawing holds. */
async function unpackedEpisode(drawn) {
  const { spikes, path, curves } = drawn;
  const steps = async (packed) => (await unpacked(packed)).map((t) => t + drawn.first);
  return {
    ...drawn,
    spikes: spikes && {
      ...spikes, steps: await steps(spikes.steps), ids: await unpacked(spikes.ids),
      counts: await unpacked(spikes.counts),
    },
    curves: await Promise.all(curves.map(async (curve) => ({
      ...curve, steps: await steps(curve.steps), values: await Promise.all(curve.values.map(unpacked)),
    }))),
    path: path && {
      ...path, steps: await steps(path.steps), x: await unpacked(path.x), y: await unpacked(path.y),
    },
  };
}

/** Return the lowest and the highest of the finite values, or [0, 1] for none. */
function extent(arrays) {
  let low = Infinity, high = -Infinity;
  for (const values of arrays) {
    for (const value of values) {
      if (Number.isFinite(value)) { low = Math.min(low, value); high = Math.max(high, value); }
    }
  }
  if (low > high) return [0, 1];
  return low === high ? [low - 0.5, high + 0.5] : [low, high];
}

class EpisodeView {
  constructor(holder, data, stop) {
    this.data = data;
    this.whole = [data.first, Math.max(data.stop, data.first + 1)];
    this.x = [...this.whole];
    this.scale = data.dt ?? 1;
    this.timeLabel = data.dt === null ? "timestep" : "time (s)";
    this.readout = make("div", { class: "readout", role: "status" });
    this.tracks = [];
    this.buttons = {};
    holder.append(make("h3", {}, data.title), this.tools());
    if (data.spikes) this.addSpikes(holder);
    for (const curve of data.curves) this.addCurve(holder, curve);
    if (data.curves.some((curve) => !curve.is_whole)) {
      holder.append(make("p", { class: "hint" }, "Long curves are drawn from the lowest and the highest "
        + "value of each stretch of timesteps."));
    }
    holder.append(this.readout);
    if (data.path) this.addPath(holder);
    this.later = keepDrawn(() => this.draw(), stop);
  }

  tools() {
    const button = (text, act, label = null) => make(
      "button", { type: "button", "aria-label": label, onclick: act }, text,
    );
    return make(
      "div", { class: "tools" },
      button("Zoom in", () => this.zoom(0.5)), button("Zoom out", () => this.zoom(2)),
      button("◀", () => this.pan(-0.5), "Earlier"), button("▶", () => this.pan(0.5), "Later"),
      button("Whole episode", () => this.reset()),
      make("span", { class: "hint" }, "Drag over a stretch to zoom into it, Ctrl + wheel to zoom, "
        + "double click for the whole. With a plot in focus: + − ← → 0."),
    );
  }

  addTrack(holder, height, label, draw, hover, kind = {}) {
    const canvas = make("canvas", { role: "img", tabindex: "0", "aria-label": label });
    const track = { canvas, height, draw, hover, drag: null, ...kind };
    canvas.addEventListener("keydown", (event) => this.key(event));
    canvas.addEventListener("wheel", (event) => this.wheel(event, track), { passive: false });
    canvas.addEventListener("pointerdown", (event) => {
      track.drag = { from: event, to: event };
      canvas.setPointerCapture(event.pointerId);
    });
    canvas.addEventListener("pointermove", (event) => {
      if (track.drag) { track.drag.to = event; this.later(); }
      this.hover(track, event);
    });
    canvas.addEventListener("pointerup", () => this.dropped(track));
    canvas.addEventListener("pointercancel", () => { track.drag = null; this.later(); });
    canvas.addEventListener("dblclick", () => this.reset());
    this.tracks.push(track);
    holder.append(canvas);
    return track;
  }

  addSpikes(holder) {
    const { spikes } = this.data;
    const label = `Spikes: ${plain(spikes.count)} of ${plain(spikes.neurons)} neurons, over time.`;
    this.neurons = [-0.5, spikes.neurons - 0.5];
    if (this.data.populations.length) {
      const entries = this.data.populations.map((each) => {
        const text = make("span", {}, `■ ${each.name.replaceAll("_", " ")}`);
        text.style.color = this.shade(each);
        return text;
      });
      holder.append(make("div", { class: "legend" }, ...entries));
    }
    const hover = (t, y) => {
      const neuron = Math.round(y);
      const here = this.data.populations.find((each) => neuron >= each.first && neuron < each.stop);
      return `neuron ${neuron}${here ? ` (${here.name})` : ""}`;
    };
    this.addTrack(holder, 270, label, (...at) => this.drawRaster(...at), hover, { isRaster: true });
    if (spikes.every > 1) {
      holder.append(make("p", { class: "hint" }, `The raster shows every ${spikes.every}th neuron; `
        + "rates count all while the whole episode is in view, and those shown closer in."));
    }
    const unit = this.data.dt === null ? "spikes / step" : "spikes / s";
    this.addTrack(holder, 96, `Rate of all neurons in ${unit}, over time.`,
      (...at) => this.drawRate(unit, ...at), () => "");
  }

  addCurve(holder, curve) {
    const height = curve.stacked ? 40 + 30 * curve.values.length : 104;
    const label = `${curve.label} of ${curve.names.join(", ")}, over time.`;
    const hover = (t) => {
      const row = Math.min(lowerBound(curve.steps, t - 0.5), curve.steps.length - 1);
      const values = curve.names.map((name, i) => `${name} ${plain(curve.values[i][row])}`);
      return `${values.join(", ")} at ${plain(curve.steps[row])}`;
    };
    if (curve.names.length > 1 && !curve.stacked) {
      const entries = curve.names.map((name, i) => {
        const text = make("span", {}, `━ ${name}`);
        text.style.color = PALETTE[i % PALETTE.length];
        return text;
      });
      holder.append(make("div", { class: "legend" }, ...entries));
    }
    this.addTrack(holder, height, label, (...at) => this.drawCurve(curve, ...at), hover);
    if (curve.note) holder.append(make("p", { class: "hint" }, `${curve.label}: ${curve.note}.`));
  }

  addPath(holder) {
    const canvas = make("canvas", {
      role: "img", class: "square", "aria-label": `${this.data.path.label}: the path in the plane.`,
    });
    this.path = canvas;
    const caption = `${this.data.path.label}; what is in view above is drawn strong`;
    holder.append(make("figure", {}, canvas, make("figcaption", {}, caption)));
  }

  // -- moving about ----------------------------------------------------------------------------

  go(x, neurons = this.neurons) {
    const [first, stop] = this.whole;
    const width = Math.min(Math.max(x[1] - x[0], Math.min(10, stop - first)), stop - first);
    const middle = (x[0] + x[1]) / 2;
    const low = Math.min(Math.max(first, middle - width / 2), stop - width);
    this.x = [low, low + width];
    this.neurons = neurons;
    this.later();
  }

  zoom(factor, at = (this.x[0] + this.x[1]) / 2) {
    this.go(this.x.map((t) => at + (t - at) * factor));
  }

  pan(share) {
    const by = (this.x[1] - this.x[0]) * share;
    this.go(this.x.map((t) => t + by));
  }

  reset() {
    this.go(this.whole, this.data.spikes && [-0.5, this.data.spikes.neurons - 0.5]);
  }

  key(event) {
    const act = {
      "+": () => this.zoom(0.5), "=": () => this.zoom(0.5), "-": () => this.zoom(2),
      ArrowLeft: () => this.pan(-0.25), ArrowRight: () => this.pan(0.25), 0: () => this.reset(),
    }[event.key];
    if (!act || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    act();
  }

  wheel(event, track) {
    if (!event.ctrlKey && !event.metaKey) return;
    event.preventDefault();
    this.zoom(1.0015 ** event.deltaY, track.scales.fromX(event.offsetX));
  }

  dropped(track) {
    const { drag, scales } = track;
    track.drag = null;
    if (!drag || Math.abs(drag.to.offsetX - drag.from.offsetX) < 5) return this.later();
    const sides = [drag.from.offsetX, drag.to.offsetX].map(scales.fromX).sort((a, b) => a - b);
    let neurons = this.neurons;
    if (track.isRaster && Math.abs(drag.to.offsetY - drag.from.offsetY) > 24) {
      const ends = [drag.from.offsetY, drag.to.offsetY].map(scales.fromY).sort((a, b) => a - b);
      const whole = this.data.spikes.neurons - 0.5;
      neurons = [Math.max(-0.5, Math.round(ends[0]) - 0.5), Math.min(whole, Math.round(ends[1]) + 0.5)];
    }
    return this.go(sides, neurons);
  }

  hover(track, event) {
    if (!track.scales) return;
    const t = track.scales.fromX(event.offsetX);
    const inside = t >= this.x[0] && t <= this.x[1];
    const time = this.data.dt === null ? "" : `${plain(t * this.scale)} s, `;
    const what = inside ? track.hover(t, track.scales.fromY(event.offsetY)) : "";
    this.readout.textContent = inside ? `${time}timestep ${plain(Math.floor(t))}${what && " · "}${what}` : "";
  }

  // -- drawing ---------------------------------------------------------------------------------

  draw() {
    this.tracks.forEach((track, i) => {
      const isLast = i === this.tracks.length - 1;
      const { context, width, height } = cleared(track.canvas, track.height + (isLast ? 26 : 0));
      track.scales = track.draw(context, width, height, isLast ? this.timeLabel : "");
      if (track.drag) this.drawDrag(context, track);
    });
    if (this.path) this.drawPath();
  }

  axes(context, width, height, xLabel, y, yLabel, yTicks = true) {
    return axes(context, width, height, { x: this.x, y, xLabel, yLabel, xScale: this.scale, yTicks });
  }

  drawDrag(context, track) {
    const { from, to } = track.drag;
    const { box } = track.scales;
    const tall = track.isRaster && Math.abs(to.offsetY - from.offsetY) > 24;
    context.fillStyle = colour("accent");
    context.globalAlpha = 0.2;
    context.fillRect(
      from.offsetX, tall ? from.offsetY : box.top, to.offsetX - from.offsetX,
      tall ? to.offsetY - from.offsetY : box.bottom - box.top,
    );
    context.globalAlpha = 1;
  }

  inView(steps) {
    return [lowerBound(steps, this.x[0]), lowerBound(steps, this.x[1])];
  }

  /** Return a population's colour, the text's where it is black. */
  shade(population) {
    return population.colour === "#000000" ? colour("ink") : population.colour;
  }

  drawRaster(context, width, height, xLabel) {
    const scales = this.axes(context, width, height, xLabel, this.neurons, "neuron");
    const { steps, ids } = this.data.spikes;
    const [from, to] = this.inView(steps);
    const groups = this.data.populations.length
      ? this.data.populations.map((each) => [each.first, each.stop, this.shade(each)])
      : [[0, Infinity, colour("ink")]];
    const inRange = (id) => id > this.neurons[0] && id < this.neurons[1];
    const { box } = scales;
    const tall = (box.bottom - box.top) / (this.neurons[1] - this.neurons[0]);
    const many = to - from > MOST_MARKS;
    const wide = many ? 1 : Math.min(3, Math.max(1, (box.right - box.left) / (this.x[1] - this.x[0])));
    const high = Math.max(1, Math.min(8, tall * 0.85));
    clipped(context, box, () => {
      // A mark's opacity falls with how many there are to a pixel, so that density can be seen.
      const pixels = (box.right - box.left) * (box.bottom - box.top);
      context.globalAlpha = Math.min(1, Math.max(0.12, (0.35 * pixels) / ((to - from) * wide * high)));
      for (const [first, stop, shade] of groups) {
        context.fillStyle = shade;
        for (let i = from; i < to; i++) {
          if (ids[i] < first || ids[i] >= stop || !inRange(ids[i])) continue;
          context.fillRect(scales.toX(steps[i]), scales.toY(ids[i]) - high / 2, wide, high);
        }
      }
      context.globalAlpha = 1;
    });
    return scales;
  }

  /** Return [edges, spikes per bin] of what is in view. */
  rates() {
    const { steps, counts, every } = this.data.spikes;
    const [first, stop] = this.whole;
    const isWhole = this.x[0] <= first && this.x[1] >= stop;
    if (isWhole && every > 1) {
      const size = (stop - first) / counts.length;
      return { first, size, counts };
    }
    const size = Math.max(1, Math.ceil((this.x[1] - this.x[0]) / RATE_BINS));
    const start = first + Math.floor((this.x[0] - first) / size) * size;
    const found = new Float64Array(Math.ceil((this.x[1] - start) / size));
    const [from, to] = [lowerBound(steps, start), lowerBound(steps, start + found.length * size)];
    for (let i = from; i < to; i++) found[Math.floor((steps[i] - start) / size)]++;
    return { first: start, size, counts: found };
  }

  drawRate(unit, context, width, height, xLabel) {
    const { first, size, counts } = this.rates();
    // The last bin may reach beyond the episode's end: it counts as wide as it is.
    const length = (i) => Math.min(size, this.whole[1] - (first + i * size)) * this.scale;
    const rates = Array.from(counts, (count, i) => count / length(i));
    const scales = this.axes(context, width, height, xLabel, [0, 1.08 * extent([rates])[1]], unit);
    clipped(context, scales.box, () => {
      context.beginPath();
      rates.forEach((rate, i) => {
        context.lineTo(scales.toX(first + i * size), scales.toY(rate));
        context.lineTo(scales.toX(Math.min(first + (i + 1) * size, this.whole[1])), scales.toY(rate));
      });
      context.strokeStyle = colour("ink");
      context.stroke();
    });
    return scales;
  }

  drawCurve(curve, context, width, height, xLabel) {
    const [low, high] = curve.extent ??= extent(curve.values);
    const lane = 1.15 * (high - low);
    const lanes = curve.values.length;
    const y = curve.stacked ? [0, lanes * lane] : [low - 0.06 * (high - low), high + 0.06 * (high - low)];
    const scales = this.axes(context, width, height, xLabel, y, curve.label, !curve.stacked);
    const [from, to] = this.inView(curve.steps);
    const [begin, end] = [Math.max(0, from - 1), Math.min(curve.steps.length, to + 1)];
    curve.values.forEach((values, i) => {
      const base = curve.stacked ? (lanes - 1 - i) * lane - low + 0.07 * lane : 0;
      if (curve.stacked) {
        context.fillStyle = colour("faint");
        context.textAlign = "right";
        context.fillText(curve.names[i].replace("neuron ", ""), MARGIN.left - 6, scales.toY(base + (low + high) / 2));
      }
      clipped(context, scales.box, () => {
        context.beginPath();
        for (let k = begin, pen = false; k < end; k++) {
          if (!Number.isFinite(values[k])) { pen = false; continue; }
          const [px, py] = [scales.toX(curve.steps[k]), scales.toY(base + values[k])];
          if (!pen) context.moveTo(px, py);
          else {
            if (curve.steps_hold) context.lineTo(px, scales.toY(base + values[k - 1]));
            context.lineTo(px, py);
          }
          pen = true;
        }
        context.strokeStyle = lanes > 1 && !curve.stacked ? PALETTE[i % PALETTE.length] : colour("ink");
        context.lineWidth = 1;
        context.stroke();
      });
    });
    if (curve.stacked) this.drawScaleBar(context, scales, high - low, curve.label);
    return scales;
  }

  /** Draw a bar whose length says what an amplitude in stacked curves is. */
  drawScaleBar(context, scales, span, label) {
    const size = ticks(0, span, 2)[1] ?? span;
    const unit = /\(([^)]*)\)$/.exec(label)?.[1] ?? "";
    const { box } = scales;
    const tall = Math.abs(scales.toY(size) - scales.toY(0));
    const text = `${plain(Number(size.toPrecision(6)))} ${unit}`;
    context.font = "bold 11px system-ui, sans-serif";
    const wide = context.measureText(text).width + 14;
    context.fillStyle = colour("paper");
    context.globalAlpha = 0.8;
    context.fillRect(box.right - wide - 2, box.top, wide + 2, Math.max(tall, 14) + 4);
    context.globalAlpha = 1;
    context.fillStyle = colour("ink");
    context.fillRect(box.right - 4, box.top + 2, 2, tall);
    context.textAlign = "right";
    context.fillText(text, box.right - 8, box.top + 2 + Math.max(tall / 2, 7));
  }

  drawPath() {
    const { path } = this.data;
    const side = Math.min(420, this.path.parentElement.clientWidth);
    const { context, width, height } = cleared(this.path, side);
    const [[left, right], [low, high]] = [extent([path.x]), extent([path.y])];
    const half = 0.53 * Math.max(right - left, high - low);
    const around = (a, b) => [(a + b) / 2 - half, (a + b) / 2 + half];
    const scales = axes(context, width, height, {
      x: around(left, right), y: around(low, high), xLabel: "x", yLabel: "y",
    });
    const line = (from, to, shade, wide) => {
      context.beginPath();
      for (let i = from; i < to; i++) context.lineTo(scales.toX(path.x[i]), scales.toY(path.y[i]));
      context.strokeStyle = shade;
      context.lineWidth = wide;
      context.stroke();
    };
    clipped(context, scales.box, () => {
      line(0, path.x.length, colour("rule"), 1);
      line(...this.inView(path.steps), colour("accent"), 1.4);
    });
  }
}

/** Let one of the drawn episodes be looked at; return a function that shows the one of an id. */
function closerLook(drawn) {
  let stop = new AbortController();
  const buttons = new Map();
  const show = async (id) => {
    stop.abort();
    const mine = stop = new AbortController();
    for (const [each, button] of buttons) button.setAttribute("aria-pressed", String(each === id));
    const view = byId("closer-view");
    const data = await unpackedEpisode(drawn.find((each) => each.id === id));
    if (mine.signal.aborted) return;
    view.replaceChildren();
    if (!data.spikes && !data.curves.length && !data.path) {
      view.append(make("p", {}, "Nothing was recorded that can be drawn."));
    } else {
      new EpisodeView(view, data, mine.signal);
    }
  };
  for (const { id } of drawn) {
    const button = make("button", { type: "button", onclick: () => show(id) }, `episode ${id}`);
    buttons.set(id, button);
    byId("closer-choice").append(button, " ");
  }
  if (drawn.length) show(drawn[0].id);
  else byId("closer-view").append(make("p", {}, "No episode was chosen."));
  return (id) => { show(id); byId("closer").scrollIntoView(); };
}
