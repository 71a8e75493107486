"use strict";
(() => {
  const all = (what, where = document) => Array.from(where.querySelectorAll(what));

  // Filters: rows and logs that do not have the words are hidden.
  const filter = (input) => {
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    const place = document.getElementById(input.dataset.filter);
    if (!place) return;
    for (const each of all("tbody tr, .log", place)) {
      const text = each.textContent.toLowerCase();
      each.hidden = !words.every((word) => text.includes(word));
    }
  };
  document.addEventListener("input", (event) => {
    if (event.target.dataset && event.target.dataset.filter) filter(event.target);
  });

  // Tables that sort: a button in each head.
  const sorted = {};
  const value = (row, at) => {
    const cell = row.children[at];
    const text = cell.dataset.v === undefined ? cell.textContent.trim() : cell.dataset.v;
    const number = Number(text.replaceAll(",", ""));
    return text !== "" && !Number.isNaN(number) ? number : text;
  };
  const compare = (a, b) =>
    typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b));
  const sort = (table, at, down) => {
    const body = table.tBodies[0];
    const rows = Array.from(body.rows).map((row) => [value(row, at), row]);
    rows.sort((one, other) => (down ? -1 : 1) * compare(one[0], other[0]));
    body.append(...rows.map((each) => each[1]));
    all("thead th", table).forEach((head, index) => {
      if (index === at) head.setAttribute("aria-sort", down ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
    });
  };
  const sortable = (where) => {
    for (const table of all("table.sortable", where)) {
      const key = table.id || (table.closest("section") || {}).id;
      all("thead th", table).forEach((head, at) => {
        const button = document.createElement("button");
        button.type = "button";
        button.textContent = head.textContent;
        head.replaceChildren(button);
        button.addEventListener("click", () => {
          const down = sorted[key] && sorted[key].at === at ? !sorted[key].down : head.classList.contains("n");
          sorted[key] = { at, down };
          sort(table, at, down);
        });
      });
      if (sorted[key]) sort(table, sorted[key].at, sorted[key].down);
    }
  };

  // The timeline: what a bar is, and a part of the time larger.
  const tip = document.getElementById("tip");
  const place = (x, y) => {
    tip.style.left = `${Math.max(0, Math.min(x + 12, innerWidth - tip.offsetWidth - 8))}px`;
    tip.style.top = `${Math.max(0, Math.min(y + 14, innerHeight - tip.offsetHeight - 8))}px`;
  };
  const tell = (event) => {
    const bar = event.target.closest ? event.target.closest("[data-t]") : null;
    tip.hidden = !bar;
    if (!bar) return;
    tip.textContent = bar.dataset.t;
    place(event.clientX, event.clientY);
  };
  document.addEventListener("pointermove", tell);
  document.addEventListener("pointerdown", tell);
  let from = 0;
  let wide = 1000;
  const zoomed = () => {
    from = Math.max(0, Math.min(from, 1000 - wide));
    for (const svg of all("#lanes svg")) svg.setAttribute("viewBox", `${from} 0 ${wide} 20`);
    const axis = document.querySelectorAll("#lanes .axis span");
    if (axis.length !== 2) return;
    const seconds = Number(document.getElementById("lanes").dataset.seconds) / 1000;
    const digits = Math.min(Math.max(2 - Math.floor(Math.log10(wide * seconds)), 0), 9);
    [from, from + wide].forEach((at, end) => {
      if (axis[end].dataset.whole === undefined) axis[end].dataset.whole = axis[end].textContent;
      axis[end].textContent = wide === 1000 ? axis[end].dataset.whole : `${(at * seconds).toFixed(digits)} s`;
    });
  };
  document.addEventListener("click", (event) => {
    const step = event.target.dataset ? event.target.dataset.zoom : undefined;
    if (!step) return;
    const middle = from + wide / 2;
    if (step === "in") wide = Math.max(wide / 2, 1);
    if (step === "out") wide = Math.min(wide * 2, 1000);
    from = middle - wide / 2;
    if (step === "left") from -= wide / 4;
    if (step === "right") from += wide / 4;
    zoomed();
  });

  // The graph and the table point at each other.
  document.addEventListener("pointerover", (event) => {
    const over = event.target.closest ? event.target.closest(".dg-box") : null;
    for (const box of all(".dg-box.hit")) box.classList.remove("hit");
    if (over) for (const box of all(".dg-box")) if (box.dataset.task === over.dataset.task) box.classList.add("hit");
  });

  // What a reader has ticked, typed, opened and scrolled, and where the keyboard is, stay when a part is put in place.
  const named = (each) => {
    const place = (each.closest("[id]") || {}).id;
    if (each.tagName === "DETAILS") return `${place} ${each.querySelector("summary").textContent}`;
    const name = each.id || each.getAttribute("aria-label") || each.dataset.filter;
    if (name || each.name) return name || `${each.name} ${each.type === "checkbox" ? each.value : ""}`;
    return `${place} ${each.getAttribute("href") || ""} ${each.textContent}`;
  };
  const numbered = (what, where) => {
    const count = new Map();
    return new Map(all(what, where).map((each) => {
      const name = named(each);
      count.set(name, (count.get(name) || 0) + 1);
      return [`${name} ${count.get(name)}`, each];
    }));
  };
  const STATES = [
    ["details", ["open"]],
    [".scroll", ["scrollLeft", "scrollTop"]],
    ["input[type=checkbox]", ["checked"]],
    ["input:not([type=checkbox]):not([type=hidden]),select", ["value"]],
  ];
  const REACHED = "a,button,input,select,summary,[tabindex]";
  const kept = (where) => {
    const states = STATES.map(([what, names]) => [what, numbered(what, where), names]);
    for (const state of states) {
      state[1].forEach((each, key) => state[1].set(key, state[2].map((name) => [name, each[name]])));
    }
    const at = document.activeElement;
    const reached = where.contains(at) ? Array.from(numbered(REACHED, where)).find((each) => each[1] === at) : undefined;
    const typed = reached && at.type === "search" ? [at.selectionStart, at.selectionEnd] : undefined;
    return (fresh) => {
      for (const [what, known] of states) {
        numbered(what, fresh).forEach((each, key) => {
          for (const [name, was] of known.get(key) || []) if (each[name] !== was) each[name] = was;
        });
      }
      const again = reached ? numbered(REACHED, fresh).get(reached[0]) : undefined;
      if (again && again !== document.activeElement) again.focus({ preventScroll: true });
      if (again && typed) again.setSelectionRange(...typed);
    };
  };
  const put = (old, place) => {
    const again = kept(old);
    const fresh = place();
    sortable(fresh);
    again(fresh);
  };

  // Live: the server says that something has changed, and the parts that differ are put in place.
  const live = document.getElementById("live");
  const refresh = async () => {
    const answer = await fetch(location.href, { headers: { accept: "text/html" } });
    if (answer.status === 404) throw new Error(GONE);
    if (!answer.ok) throw new Error(`the server answered ${answer.status}`);
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    const ids = (where) => all("[data-live]", where).map((each) => each.id).join();
    if (ids(page) !== ids(document)) {
      const old = document.getElementById("main");
      put(old, () => { old.replaceWith(page.getElementById("main")); return document.getElementById("main"); });
    } else {
      for (const fresh of all("[data-live]", page)) {
        const old = document.getElementById(fresh.id);
        const text = fresh.innerHTML;
        if (old.dataset.was === text) continue;
        put(old, () => { old.replaceChildren(...fresh.childNodes); return old; });
        for (const name of Object.keys(fresh.dataset)) old.dataset[name] = fresh.dataset[name];
        old.dataset.was = text;
      }
    }
    document.title = page.title;
    all("input[data-filter]").forEach(filter);
    zoomed();
    return page.body.dataset.follow !== undefined;
  };
  const GONE = "what this page shows is gone";
  const follow = (address) => {
    let source;
    let busy = false;
    let again = false;
    let over = false;
    const close = () => { if (source) source.close(); source = undefined; };
    const changed = async () => {
      if (busy) { again = true; return; }
      busy = true;
      try {
        do { again = false; over = !(await refresh()); } while (again && !over);
        live.textContent = over ? "" : "live";
      } catch (error) {
        live.textContent = String(error.message || error);
        over = error.message === GONE;
      } finally { busy = false; }
      if (over) close();
    };
    // A browser has six connections to a server: a page that nobody sees needs none.
    const open = () => {
      if (source || over || document.hidden) return;
      const own = source = new EventSource(address);
      own.addEventListener("open", () => { live.textContent = "live"; });
      own.addEventListener("changed", changed);
      own.addEventListener("error", () => {
        if (own !== source) return;
        if (own.readyState === EventSource.CLOSED) source = undefined;
        live.textContent = source ? "not connected; trying again" : "no longer live: reload the page";
      });
    };
    document.addEventListener("visibilitychange", () => { if (document.hidden) close(); else open(); });
    open();
  };

  // Charts by keyboard: the arrows go through what the pointer would be told.
  document.addEventListener("keydown", (event) => {
    const chart = event.target.closest ? event.target.closest("svg.chart") : null;
    const steps = { ArrowLeft: -1, ArrowRight: 1, Home: -1e9, End: 1e9 };
    const told = chart ? all("[data-t]", chart) : [];
    if (!told.length || !(event.key in steps || event.key === "Escape")) return;
    event.preventDefault();
    const now = told.findIndex((each) => each.classList.contains("hit"));
    if (now >= 0) told[now].classList.remove("hit");
    tip.hidden = event.key === "Escape";
    if (tip.hidden) return;
    const next = told[Math.max(0, Math.min(told.length - 1, (now < 0 && event.key === "ArrowRight" ? 0 : now + steps[event.key])))];
    next.classList.add("hit");
    const box = next.getBoundingClientRect();
    tip.textContent = next.dataset.t;
    place(box.right, box.top);
  });
  document.addEventListener("focusout", (event) => {
    const left = event.target.closest ? event.target.closest("svg.chart") : null;
    if (!left) return;
    tip.hidden = true;
    for (const each of all(".hit", left)) each.classList.remove("hit");
  });

  sortable(document);
  if (document.body.dataset.follow) follow(document.body.dataset.follow);
})();
