// Where a number comes from: a card that follows the pointer and the focus, and stays when a number is pressed.

const card = byId("provenance");
const cardState = { owner: null, pinned: false, timer: 0 };

function pair(term, ...values) {
  const kept = values.filter((value) => value !== null && value !== undefined && value !== "");
  return kept.length ? [make("dt", {}, term), make("dd", {}, ...kept)] : [];
}

function digest(text) {
  return text ? make("code", { class: "digest" }, text) : "";
}

function copyable(command) {
  const text = make("code", {}, command);
  const copy = async () => {
    try {
      await navigator.clipboard.writeText(command);
      say("The command is copied.");
      button.textContent = "copied";
    } catch {
      // No clipboard is given to this page: the text is selected, for the reader's own keys.
      getSelection().selectAllChildren(text);
      say("The command is selected.");
      button.textContent = "selected";
    }
  };
  const button = make("button", { type: "button", class: "copy", click: copy }, "copy");
  return make("div", { class: "command" }, text, button);
}

function listed(texts, most = 8) {
  if (texts.length <= most) return make("ul", {}, ...texts.map((text) => make("li", {}, text)));
  const rest = make("details", {}, make("summary", {}, `${texts.length - most} more`),
    make("ul", {}, ...texts.slice(most).map((text) => make("li", {}, text))));
  return make("div", {}, make("ul", {}, ...texts.slice(0, most).map((text) => make("li", {}, text))), rest);
}

function counted(number, one, many) {
  return number === null ? "" : count(number, one, many);
}

function versionsOf(run) {
  const { "mae-bench": own, "mae-bench source": source, "mae-bench commit": commit, ...others }
    = shared(run, "versions");
  const code = [own ? `mae-bench ${own}` : "", commit ? `commit ${commit}` : "", source ? `source ${source}` : "source not recorded"];
  return [code.filter(Boolean).join(", "), Object.entries(others).map(([name, text]) => `${name} ${text}`).join(", ")];
}

/** What is the same for every seed of a run: how it was made, on what, by what code. */
function recipeFacts(run) {
  const backbone = shared(run, "backbone");
  const dataset = shared(run, "dataset");
  const departures = shared(run, "departures");
  const notes = shared(run, "notes");
  const [code, others] = versionsOf(run);
  const pretraining = Object.entries(backbone?.pretraining ?? {}).map(([key, value]) => `${key} ${value}`);
  const hardware = shared(run, "hardware");
  return [
    ...pair("Recipe", run.recipe, run.engine ? ` (engine ${run.engine})` : ""),
    ...pair("Protocol", run.protocol ?? "none"),
    ...pair("Departures", departures.length ? listed(departures) : "none"),
    ...pair("Recipe hash", digest(run.hash)),
    ...pair("Selection", run.selection),
    ...(backbone ? [
      ...pair("Backbone", make("code", {}, backbone.spec), ` ${backbone.arch}`, backbone.params === null ? "" : `, ${brief(backbone.params / 1e6)} million weights`),
      ...pair("Pretraining", pretraining.join(", ")),
      ...pair("Weights hash", digest(backbone.digest)),
    ] : []),
    ...(dataset ? [
      ...pair("Data", [dataset.name, counted(dataset.train_images, "training image"), counted(dataset.val_images, "validation image"),
        counted(dataset.classes, "class", "classes")].filter(Boolean).join(", ")),
      ...pair("Data fingerprint", digest(dataset.fingerprint)),
    ] : []),
    ...pair("Code", code),
    ...pair("Versions", others),
    ...pair("Hardware", Object.entries(hardware).map(([key, value]) => (key === "device" || key === "kind" ? value : `${value} ${key}`)).join(", "), `, ${run.precision}`),
    ...pair("Steps", shown(run.steps), run.epochs === null ? "" : ` (${shown(run.epochs)} epochs)`, run.batch === null ? "" : `, batch ${shown(run.batch)}`),
    ...pair("Images seen", shown(run.images)),
    ...pair("Notes", notes.length ? listed(notes) : ""),
  ];
}

/** The seeds behind a number: folder, time, command of each. */
function seedFacts(runs) {
  return runs.map((run) => make("details", { class: "seed", open: runs.length === 1 },
    make("summary", {}, `Seed ${run.seed}: `, make("code", {}, run.name)),
    make("dl", {},
      ...pair("Metrics", Object.entries(run.metrics).map(([name, value]) => `${name} ${shown(value)}`).join(", ")),
      ...pair("Wall-clock", duration(run.seconds), run.memory ? `, peak memory ${run.memory} GiB` : ""),
      ...pair("Finished", time(run.finished), " UTC"),
      ...pair("Command", copyable(run.command))),
    HAS_CURVES.has(run) ? make("p", {}, make("button", { type: "button", class: "link", click: () => { hideCard(); showCurvesOf(run); } }, "Show its curves")) : ""));
}

function aboutRun(run) {
  const { name, value, unit } = headline(run);
  return {
    title: run.name,
    body: [make("p", { class: "value" }, shown(value), make("span", {}, ` ${unit?.unit ?? ""} ${unit?.label ?? name}`)),
      make("dl", {}, ...pair("Task", run.task), ...pair("Seed", String(run.seed)), ...recipeFacts(run)), ...seedFacts([run])],
  };
}

function aboutCell(table, row, column, cell) {
  const title = `${row.label}: ${column.group ? `${column.group}, ` : ""}${column.label}`;
  const unit = cell.value !== null && column.unit ? ` ${column.unit}` : "";
  const body = [make("p", { class: "value" }, cell.text, make("span", {}, unit))];
  const facts = [];
  if (row.ours) {
    const runs = cell.runs.map((name) => RUN_BY_NAME.get(name)).filter(Boolean);
    facts.push(...pair("Seeds", cell.n > 1 ? `mean ± standard deviation over ${cell.n}: ${runs.map((run) => run.seed).join(", ")}` : runs.map((run) => `one run, seed ${run.seed}`).join("")));
    if (cell.interval) facts.push(...pair("Interval", `${cell.interval.map((end) => end.toFixed(cell.decimals ?? column.decimals)).join(" to ")} (sampling error)`));
    if (cell.delta !== null) facts.push(...pair("Difference", `${cell.delta >= 0 ? "+" : ""}${cell.delta.toFixed(cell.decimals ?? column.decimals)}`));
    facts.push(...pair("Comparable", cell.departures ? `no: ${cell.departures}` : "yes"));
    if (runs.length) facts.push(...recipeFacts(runs[0]));
    body.push(make("dl", {}, ...facts), ...seedFacts(runs));
  } else {
    facts.push(...pair("Published in", cell.source || "no source is told"));
    if (!cell.verified) facts.push(...pair("Checked", "not found in a source that was read; it is not compared"));
    if (cell.departures) facts.push(...pair("Comparable", `no: ${cell.departures}`));
    facts.push(...row.marks.flatMap((mark) => pair("Note", table.footnotes[mark - 1])));
    body.push(make("dl", {}, ...facts));
  }
  return { title, body };
}

// ---------------------------------------------------------------- showing and hiding

function showCard(owner, about, pinned) {
  clearTimeout(cardState.timer);
  if (cardState.pinned && !pinned) return;
  if (cardState.owner !== owner) {
    hideCard(false);
    const { title, body } = about();
    const close = make("button", { type: "button", class: "close", click: () => hideCard(true) }, "Close");
    card.replaceChildren(make("header", {}, make("h2", {}, title), close), ...body);
    card.setAttribute("aria-label", `Provenance of ${title}`);
  }
  Object.assign(cardState, { owner, pinned });
  card.classList.toggle("pinned", pinned);
  card.setAttribute("role", pinned ? "dialog" : "complementary");
  owner.setAttribute("aria-expanded", String(pinned));
  card.hidden = false;
  place(owner);
  if (pinned) {
    card.scrollTop = 0;
    card.focus({ preventScroll: true });
  }
}

function hideCard(back = false) {
  clearTimeout(cardState.timer);
  const { owner } = cardState;
  Object.assign(cardState, { owner: null, pinned: false });
  card.hidden = true;
  owner?.setAttribute("aria-expanded", "false");
  if (back && owner?.isConnected) {
    cardState.returning = true;
    owner.focus();
    cardState.returning = false;
  }
}

/** Beside the number, inside the window; on a narrow one the style sheet puts it at the lower edge. */
function place(owner) {
  const box = owner.getBoundingClientRect();
  const [above, below] = [box.top - 14, innerHeight - box.bottom - 14];
  card.style.setProperty("--room", "100vh");
  const full = card.getBoundingClientRect().height;
  const under = full <= below || below >= above;
  // Where it does not fit, it scrolls rather than cover the number.
  card.style.setProperty("--room", `${Math.max(160, under ? below : above)}px`);
  const own = card.getBoundingClientRect();
  card.style.setProperty("--top", `${under ? box.bottom + 6 : Math.max(8, box.top - own.height - 6)}px`);
  card.style.setProperty("--left", `${Math.max(8, Math.min(box.left, innerWidth - own.width - 16))}px`);
}

function later(act, wait) {
  clearTimeout(cardState.timer);
  cardState.timer = setTimeout(act, wait);
}

/** Let the numbers inside `root` show their card; `about(button)` tells what is in it. */
function tellsProvenance(root, selector, about) {
  const at = (event) => (event.target instanceof Element ? event.target.closest(selector) : null);
  root.addEventListener("pointerover", (event) => {
    const owner = at(event);
    if (!owner || event.pointerType !== "mouse" || cardState.pinned) return;
    later(() => owner.isConnected && showCard(owner, () => about(owner), false), cardState.owner ? 60 : 250);
  });
  root.addEventListener("pointerout", (event) => {
    if (at(event) && !cardState.pinned) later(() => hideCard(), 200);
  });
  root.addEventListener("focusin", (event) => {
    const owner = at(event);
    if (owner?.matches(":focus-visible") && !cardState.returning) showCard(owner, () => about(owner), false);
  });
  root.addEventListener("focusout", (event) => {
    if (at(event) && !cardState.pinned) later(() => hideCard(), 100);
  });
  root.addEventListener("click", (event) => {
    const owner = at(event);
    if (!owner) return;
    if (cardState.pinned && cardState.owner === owner) hideCard(true);
    else {
      cardState.pinned = false;
      showCard(owner, () => about(owner), true);
    }
  });
}

card.addEventListener("pointerenter", () => clearTimeout(cardState.timer));
card.addEventListener("pointerleave", () => cardState.pinned || later(() => hideCard(), 200));
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && !card.hidden) hideCard(cardState.pinned);
});
document.addEventListener("pointerdown", (event) => {
  if (cardState.pinned && !card.contains(event.target) && !cardState.owner.contains(event.target)) hideCard();
});
addEventListener("scroll", () => { if (!card.hidden && !cardState.pinned) place(cardState.owner); }, { passive: true });
