// The curves of the runs of one task; the numbers of a task are read when it is first chosen.

const FIRST_CURVES = COLORS;
const MOST_LEGEND = 200;
const HAS_CURVES = new Map();

const curves = {
  chart: null,
  tasks: new Map(),
  task: 0,
  on: new Set(),
  words: [],

  start() {
    if (!DATA.curves.length) return;
    this.chart = new Chart(byId("chart"));
    const most = DATA.curves.reduce((best, task, i) => (task.places.length > DATA.curves[best].places.length ? i : best), 0);
    byId("curve-task").append(...DATA.curves.map((task, i) => make("option", { value: i, selected: i === most }, `${task.task} (${count(task.places.length, "run")})`)));
    byId("curve-task").addEventListener("change", (event) => this.choose(Number(event.target.value)));
    byId("curve-metric").addEventListener("change", () => this.draw());
    byId("curve-log").addEventListener("change", () => this.draw());
    for (const input of document.querySelectorAll("input[name=axis]")) input.addEventListener("change", () => this.draw());
    byId("curve-filter").addEventListener("input", settled(() => {
      this.words = wordsOf(byId("curve-filter").value);
      this.legend();
    }));
    byId("curve-none").addEventListener("click", () => this.only([]));
    byId("curve-first").addEventListener("click", () => this.only(this.fitting().slice(0, FIRST_CURVES)));
    byId("curve-legend").addEventListener("click", (event) => this.toggled(event));
    byId("curve-legend").addEventListener("pointerover", (event) => this.lit(event.target.closest("button")));
    byId("curve-legend").addEventListener("pointerout", () => this.lit(null));
    byId("curve-legend").addEventListener("focusin", (event) => this.lit(event.target.closest("button")));
    byId("curve-legend").addEventListener("focusout", () => this.lit(null));
    this.choose(most);
  },

  /** The runs of a task that have curves, newest first; before all those that are not finished. */
  runsOf(task) {
    if (!this.tasks.has(task)) {
      const { runs } = readData(`curves-${task}`);
      for (const one of runs) one.run = LOGGED[one.run];
      runs.sort((a, b) => Boolean(b.run.unfinished) - Boolean(a.run.unfinished) || compare(a.run.finished, b.run.finished, -1) || COLLATOR.compare(a.run.name, b.run.name));
      const folders = runs.map((one) => one.run.name.split("/"));
      let same = 0;
      while (folders.every((parts) => parts.length > same + 1 && parts[same] === folders[0][same])) same += 1;
      runs.forEach((one, i) => { one.name = folders[i].slice(same).join("/"); one.style = i; });
      this.tasks.set(task, runs);
    }
    return this.tasks.get(task);
  },

  choose(task) {
    this.task = task;
    byId("curve-task").value = String(task);
    byId("curve-filter").value = "";
    this.words = [];
    const before = byId("curve-metric").value;
    const { metrics } = DATA.curves[task];
    byId("curve-metric").replaceChildren(...metrics.map((metric) => make("option", { value: metric.key }, metric.label)));
    byId("curve-metric").value = metrics.some((metric) => metric.key === before) ? before : metrics[0].key;
    this.only(this.runsOf(task).slice(0, FIRST_CURVES));
  },

  fitting() {
    return this.runsOf(this.task).filter((one) => holds(runText(one.run), this.words));
  },

  only(runs) {
    this.on = new Set(runs);
    // Colours go round; those that are shown first get different ones.
    runs.forEach((one, i) => { one.style = i; });
    this.runsOf(this.task).filter((one) => !this.on.has(one)).forEach((one, i) => { one.style = runs.length + i; });
    this.legend();
    this.draw();
  },

  legend() {
    const fitting = this.fitting();
    const shownRuns = [...fitting].sort((a, b) => this.on.has(b) - this.on.has(a)).slice(0, MOST_LEGEND);
    byId("curve-legend").replaceChildren(...shownRuns.map((one) => make("li", {},
      make("button", { type: "button", "aria-pressed": String(this.on.has(one)), "data-run": one.run.name },
        swatch(one.style), make("span", {}, one.name), make("small", {}, `${backboneName(one.run)} seed ${one.run.seed}${one.run.unfinished ? ", unfinished" : ""}`)))));
    if (fitting.length > shownRuns.length) byId("curve-legend").append(make("li", {}, `and ${count(fitting.length - shownRuns.length, "more run", "more runs")}: filter to find them`));
    this.counted();
  },

  counted() {
    byId("curve-count").textContent = `${this.on.size} of ${count(this.runsOf(this.task).length, "run")} drawn`;
  },

  draw() {
    const metric = DATA.curves[this.task].metrics.find((one) => one.key === byId("curve-metric").value);
    const byEpoch = document.querySelector("input[name=axis]:checked").value === "epoch";
    const series = [...this.on].filter((one) => one.curves[metric.key] && (!byEpoch || one.per_step)).map((one) => {
      const [steps, y] = one.curves[metric.key];
      return { name: one.name, style: one.style, x: byEpoch ? steps.map((step) => step * one.per_step) : steps, y };
    });
    this.chart.show(series, { logarithmic: byId("curve-log").checked, xLabel: byEpoch ? "Epoch" : "Step",
      yLabel: metric.label + (metric.unit ? ` (${metric.unit})` : "") });
    this.counted();
  },

  toggled(event) {
    const button = event.target.closest("button");
    if (!button) return;
    const one = this.runsOf(this.task).find(({ run }) => run.name === button.dataset.run);
    const on = !this.on.has(one);
    this.on[on ? "add" : "delete"](one);
    button.setAttribute("aria-pressed", String(on));
    this.draw();
    this.lit(on ? button : null);
  },

  /** Make the curve of a button stand out among the others. */
  lit(button) {
    const one = button && this.runsOf(this.task).find(({ run }) => run.name === button.dataset.run);
    for (const line of byId("chart").querySelectorAll(".curve")) {
      line.classList.toggle("faint", Boolean(one) && this.on.has(one) && line.dataset.name !== one.name);
    }
  },
};

function startCurves() {
  DATA.curves.forEach((task, i) => {
    for (const place of task.places) HAS_CURVES.set(LOGGED[place], i);
  });
  curves.start();
}

function showCurvesOf(run) {
  curves.choose(HAS_CURVES.get(run));
  curves.only(curves.runsOf(curves.task).filter((one) => one.run === run));
  byId("curves").scrollIntoView();
  byId("chart").querySelector("svg").focus({ preventScroll: true });
}
