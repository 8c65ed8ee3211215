// The choice of colours, links into what is folded away, and the start of everything.

/** The page's own memory, where the browser grants it one (a file opened from disk may have none). */
const memory = {
  get(key) {
    try {
      return localStorage.getItem(key) ?? "";
    } catch {
      return "";
    }
  },
  set(key, value) {
    try {
      localStorage.setItem(key, value);
    } catch {
      // The choice then holds as long as the page is open.
    }
  },
};

function startTheme() {
  const select = byId("theme");
  const apply = () => {
    if (select.value) document.documentElement.dataset.theme = select.value;
    else delete document.documentElement.dataset.theme;
  };
  const before = memory.get("mae-bench-theme");
  if (["light", "dark"].includes(before)) select.value = before;
  apply();
  select.addEventListener("change", () => {
    apply();
    memory.set("mae-bench-theme", select.value);
  });
}

/** Unfold whatever the target of a link stands in. */
function unfold() {
  const target = location.hash && byId(decodeURIComponent(location.hash.slice(1)));
  if (!target) return;
  let folded = target.closest("details:not([open])");
  if (!folded) return;
  for (; folded; folded = target.closest("details:not([open])")) folded.open = true;
  requestAnimationFrame(() => target.scrollIntoView());
}

function startMenus() {
  const close = (except) => {
    for (const menu of document.querySelectorAll("details.menu[open]")) if (menu !== except) menu.open = false;
  };
  document.addEventListener("pointerdown", (event) => close(event.target.closest("details.menu")));
  document.addEventListener("keydown", (event) => {
    const menu = event.key === "Escape" && document.activeElement?.closest("details.menu[open]");
    if (!menu) return;
    menu.open = false;
    menu.querySelector("summary").focus();
  });
}

startTheme();
runList.start();
startCurves();
startTables();
startPictures();
startMenus();
addEventListener("hashchange", unfold);
unfold();
document.documentElement.dataset.ready = "";
