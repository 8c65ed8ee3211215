// A chart of curves over each other: drawn anew for every width, read with the pointer or the arrow keys.

const COLORS = 7;
const DASHES = ["", "7 3", "2 3", "9 3 2 3"];
const MARGIN = { left: 62, right: 14, top: 12, bottom: 42 };

/** About `wanted` round numbers from `low` to `high`. */
function ticks(low, high, wanted) {
  const rough = (high - low) / wanted;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].find((factor) => factor * power >= rough) * power;
  const found = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i += 1) found.push(i * step);
  return found;
}

/** Powers of ten, with 2 and 5 times them where there are few. */
function logarithmicTicks(low, high) {
  const first = Math.floor(Math.log10(low));
  const last = Math.ceil(Math.log10(high));
  const every = Math.ceil((last - first) / 8);
  const factors = last - first <= 3 ? [1, 2, 5] : [1];
  const found = [];
  for (let power = first; power <= last; power += every) {
    for (const factor of factors) found.push(factor * 10 ** power);
  }
  const inside = found.filter((value) => value >= low * 0.999 && value <= high * 1.001);
  return inside.length > 1 ? inside : ticks(low, high, 4);
}

class Chart {
  constructor(host) {
    this.host = host;
    this.series = [];
    this.at = null;
    this.tip = make("div", { class: "tip", hidden: true });
    this.svg = shape("svg", { tabindex: "0", role: "img" });
    host.append(this.svg, this.tip);
    this.svg.addEventListener("pointermove", (event) => this.pointed(event));
    this.svg.addEventListener("pointerdown", (event) => this.pointed(event));
    this.svg.addEventListener("pointerleave", () => this.read(null));
    this.svg.addEventListener("blur", () => this.read(null));
    this.svg.addEventListener("keydown", (event) => this.moved(event));
    this.width = 0;
    new ResizeObserver(() => {
      if (host.clientWidth !== this.width) this.draw();
    }).observe(host);
  }

  /** series: [{name, style, x: [], y: []}]; style is a number from which colour and dashes follow. */
  show(series, { logarithmic, xLabel, yLabel }) {
    Object.assign(this, { logarithmic, xLabel, yLabel });
    this.lost = 0;
    this.series = series.map((one) => {
      if (!logarithmic) return one;
      const kept = [...one.x.keys()].filter((i) => one.y[i] > 0);
      this.lost += one.x.length - kept.length;
      return { ...one, x: kept.map((i) => one.x[i]), y: kept.map((i) => one.y[i]) };
    }).filter((one) => one.x.length);
    this.draw();
  }

  range(axis) {
    let low = Infinity;
    let high = -Infinity;
    for (const one of this.series) {
      for (const value of one[axis]) {
        if (value < low) low = value;
        if (value > high) high = value;
      }
    }
    if (low > high) return [0, 1];
    if (low < high) return [low, high];
    return this.logarithmic && axis === "y" ? [low / 2, high * 2] : [low - (Math.abs(low) * 0.1 || 1), high + (Math.abs(high) * 0.1 || 1)];
  }

  draw() {
    this.width = this.host.clientWidth;
    if (!this.width) return;
    this.height = Math.round(Math.max(260, Math.min(440, this.width * 0.55)));
    const { width, height } = this;
    const [left, right, top, bottom] = [MARGIN.left, width - MARGIN.right, MARGIN.top, height - MARGIN.bottom];
    let [x0, x1] = this.range("x");
    let [y0, y1] = this.range("y");
    const through = this.logarithmic ? Math.log10 : (value) => value;
    const room = (through(y1) - through(y0)) * 0.04;
    [y0, y1] = [through(y0) - room, through(y1) + room];
    this.x = (value) => left + ((value - x0) / (x1 - x0)) * (right - left);
    this.y = (value) => bottom - ((through(value) - y0) / (y1 - y0)) * (bottom - top);
    const back = (value) => (this.logarithmic ? 10 ** value : value);
    const across = ticks(x0, x1, Math.max(3, width / 85));
    const up = this.logarithmic ? logarithmicTicks(back(y0), back(y1)) : ticks(y0, y1, height / 60);
    this.svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    this.svg.setAttribute("width", width);
    this.svg.setAttribute("height", height);
    this.svg.setAttribute("aria-label", `${this.yLabel} by ${this.xLabel.toLowerCase()}, ${count(this.series.length, "curve")}. The left and right arrow keys read the values.`);
    this.guide = shape("line", { class: "guide", y1: top, y2: bottom, visibility: "hidden" });
    this.dots = shape("g");
    this.svg.replaceChildren(
      shape("g", { class: "grid" }, ...up.map((value) => shape("line", { x1: left, x2: right, y1: this.y(value), y2: this.y(value) }))),
      shape("g", { class: "ticks" },
        ...up.map((value) => shape("text", { x: left - 8, y: this.y(value) + 4, "text-anchor": "end" }, brief(value))),
        ...across.map((value) => shape("text", { x: this.x(value), y: bottom + 18, "text-anchor": "middle" }, brief(value))),
        ...across.map((value) => shape("line", { x1: this.x(value), x2: this.x(value), y1: bottom, y2: bottom + 4 })),
        shape("line", { x1: left, x2: right, y1: bottom, y2: bottom })),
      shape("text", { class: "axis", x: (left + right) / 2, y: height - 6, "text-anchor": "middle" }, this.xLabel),
      shape("text", { class: "axis", transform: `translate(14 ${(top + bottom) / 2}) rotate(-90)`, "text-anchor": "middle" }, this.yLabel),
      ...this.series.map((one) => this.line(one)), this.guide, this.dots);
    if (!this.series.length) {
      const text = this.lost ? "No value above zero to show on a logarithmic axis." : "No curve is chosen.";
      this.svg.append(shape("text", { class: "axis", x: (left + right) / 2, y: (top + bottom) / 2, "text-anchor": "middle" }, text));
    }
    this.read(null);
  }

  line(one) {
    const points = one.x.map((value, i) => `${this.x(value).toFixed(1)} ${this.y(one.y[i]).toFixed(1)}`);
    const kind = `curve s${one.style % COLORS}`;
    if (points.length === 1) {
      return shape("circle", { class: `${kind} dot`, "data-name": one.name, cx: this.x(one.x[0]), cy: this.y(one.y[0]), r: 4 });
    }
    return shape("path", { class: kind, "data-name": one.name, d: `M${points.join("L")}`, "stroke-dasharray": DASHES[Math.floor(one.style / COLORS) % DASHES.length] || null });
  }

  // ------------------------------------------------ reading values

  pointed(event) {
    const box = this.svg.getBoundingClientRect();
    const at = event.clientX - box.left;
    let best = null;
    for (const one of this.series) {
      for (const value of one.x) {
        if (best === null || Math.abs(this.x(value) - at) < Math.abs(this.x(best) - at)) best = value;
      }
    }
    this.read(best);
  }

  moved(event) {
    const places = [...new Set(this.series.flatMap((one) => one.x))].sort((a, b) => a - b);
    if (!places.length) return;
    const here = this.at === null ? -1 : places.indexOf(this.at);
    const next = { ArrowRight: here + 1, ArrowLeft: here === -1 ? places.length - 1 : here - 1, Home: 0, End: places.length - 1 }[event.key];
    if (next === undefined) {
      if (event.key === "Escape") this.read(null);
      return;
    }
    event.preventDefault();
    this.read(places[Math.max(0, Math.min(places.length - 1, next))], true);
  }

  read(at, aloud = false) {
    this.at = at;
    this.tip.hidden = at === null;
    this.guide?.setAttribute("visibility", at === null ? "hidden" : "visible");
    this.dots?.replaceChildren();
    if (at === null) return;
    for (const end of ["x1", "x2"]) this.guide.setAttribute(end, this.x(at));
    const values = this.series.map((one) => ({ one, i: nearest(one.x, at) }))
      .filter(({ one, i }) => Math.abs(this.x(one.x[i]) - this.x(at)) < 24)
      .sort((a, b) => b.one.y[b.i] - a.one.y[a.i]);
    this.dots.append(...values.map(({ one, i }) => shape("circle", { class: `curve dot s${one.style % COLORS}`, cx: this.x(one.x[i]), cy: this.y(one.y[i]), r: 3.5 })));
    const lines = values.slice(0, 12).map(({ one, i }) => make("li", {}, swatch(one.style), make("span", {}, brief(one.y[i])), make("small", {}, one.name)));
    if (values.length > 12) lines.push(make("li", {}, `and ${values.length - 12} more`));
    this.tip.replaceChildren(make("p", {}, `${this.xLabel} ${shown(at)}`), make("ul", {}, ...lines));
    const left = this.x(at) + 12;
    const own = this.tip.offsetWidth;
    this.tip.style.left = `${Math.max(0, left + own > this.width ? this.x(at) - own - 12 : left)}px`;
    if (aloud) say(`${this.xLabel} ${shown(at)}: ${values.slice(0, 12).map(({ one, i }) => `${one.name} ${brief(one.y[i])}`).join("; ")}`);
  }
}

/** The place in rising numbers that is nearest to `at`. */
function nearest(numbers, at) {
  let low = 0;
  let high = numbers.length - 1;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (numbers[middle] <= at) low = middle;
    else high = middle;
  }
  return at - numbers[low] <= numbers[high] - at ? low : high;
}

function swatch(style) {
  return shape("svg", { class: "swatch", width: 22, height: 10, "aria-hidden": "true" },
    shape("path", { class: `curve s${style % COLORS}`, d: "M1 5H21", "stroke-dasharray": DASHES[Math.floor(style / COLORS) % DASHES.length] || null }));
}
