// Values as a reader sees them, their order, and the text that a filter looks in.

const DASH = "\u2013";
const DATA = readData("data");
const RUNS = DATA.runs;
// Those that curves are drawn of; only finished ones stand in tables and in the list of runs.
const LOGGED = [...RUNS, ...DATA.unfinished];
const RUN_BY_NAME = new Map(RUNS.map((run) => [run.name, run]));
const COLLATOR = new Intl.Collator("en", { numeric: true, sensitivity: "base" });

/** What a run shares with others, out of its pool. */
function shared(run, pool) {
  const pools = { departures: "departures", notes: "notes", dataset: "datasets", backbone: "backbones",
    hardware: "hardware", versions: "versions", units: "units" };
  return DATA.pools[pools[pool]][run[pool]];
}

function headline(run) {
  const name = Object.keys(run.metrics)[0];
  return { name, value: run.metrics[name], unit: shared(run, "units")[name] };
}

function shown(number) {
  if (number === null || number === undefined) return DASH;
  if (Number.isInteger(number)) return number.toLocaleString("en");
  return number.toLocaleString("en", { maximumSignificantDigits: 6 });
}

function brief(number) {
  const size = Math.abs(number);
  if (number === 0) return "0";
  if (size < 1e-3 || size >= 1e6) return number.toExponential(2).replace("e+", "e");
  return String(Number(number.toPrecision(4)));
}

function duration(seconds) {
  if (seconds < 90) return `${Number(seconds.toPrecision(3))} s`;
  const minutes = Math.round(seconds / 60);
  if (minutes < 90) return `${minutes} min`;
  return `${Math.floor(minutes / 60)} h ${String(minutes % 60).padStart(2, "0")} min`;
}

function time(text) {
  return text.slice(0, 16).replace("T", " ");
}

function backboneName(run) {
  const backbone = shared(run, "backbone");
  return backbone === null ? "" : backbone.spec;
}

/** Compare two values; one that is missing is last in either direction (1: rising, -1: falling). */
function compare(a, b, direction) {
  const lacking = (value) => value === null || value === undefined || value === "";
  if (lacking(a) || lacking(b)) return lacking(a) - lacking(b);
  if (typeof a === "number" && typeof b === "number") return (a - b) * direction;
  // Numbers before words, whatever the direction.
  if (typeof a !== typeof b) return typeof a === "number" ? -1 : 1;
  return COLLATOR.compare(a, b) * direction;
}

/** Whether the text holds every word that is asked for. */
function holds(text, words) {
  return words.every((word) => text.includes(word));
}

function wordsOf(input) {
  return input.toLowerCase().split(/\s+/).filter(Boolean);
}

function runText(run) {
  run.searched ??= [run.name, run.task, run.recipe, run.engine ?? "", backboneName(run),
    shared(run, "backbone")?.arch ?? "", shared(run, "dataset")?.name ?? "", `seed ${run.seed}`, run.hash]
    .join("\n").toLowerCase();
  return run.searched;
}
