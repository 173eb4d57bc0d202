// The buttons of all classes, their keys, and the search among them.

import { element } from "./element.js";

// Letters that do nothing else on this page.
const KEYS = [..."123456789bcdefijkmopqrtvwyz"];
const SEARCHED_FROM = 13;
const LONG = 15; // letters of a name that would be broken in a narrow button

// The key of each class: the digit that its name ends in, where each name has one of its
// own; else by place.
export function keysOf(names) {
  const digits = names.map((name) => /(?<![0-9])[0-9]$/.exec(name.trim())?.[0]);
  const own = !digits.includes(undefined) && new Set(digits).size === names.length;
  return own ? digits : KEYS.slice(0, names.length);
}

export function labelOf(key, names) {
  const label = keysOf(names).indexOf(key);
  return label < 0 ? null : label;
}

export class Classes {
  constructor(box, search, onChoice) {
    Object.assign(this, { box, search, onChoice });
    this.names = [];
    search.addEventListener("input", () => this.filter());
    search.addEventListener("keydown", (event) => this.searched(event));
  }

  show(names) {
    if (names.join("\0") === this.names.join("\0")) return;
    this.names = names;
    this.search.hidden = names.length < SEARCHED_FROM;
    const keys = keysOf(names);
    this.box.classList.toggle("long", names.some((name) => name.length >= LONG));
    this.box.replaceChildren(
      ...names.map((name, label) => {
        const key = keys[label];
        const button = element("button", { type: "button" }, element("span", {}, name));
        button.dataset.label = label;
        if (key) {
          button.prepend(element("kbd", { "aria-hidden": "true" }, key));
          button.setAttribute("aria-keyshortcuts", key);
        }
        button.addEventListener("click", () => this.onChoice(label));
        return button;
      }),
    );
  }

  mark({ guess = null, said = null }) {
    for (const button of this.box.children) {
      const label = Number(button.dataset.label);
      button.classList.toggle("guess", label === guess);
      button.classList.toggle("said", label === said);
      if (label === said) button.setAttribute("aria-current", "true");
      else button.removeAttribute("aria-current");
    }
  }

  find() {
    this.search.hidden = false;
    this.search.focus();
    this.search.select();
  }

  filter() {
    const wanted = this.search.value.trim().toLowerCase();
    const found = [];
    for (const button of this.box.children) {
      const name = this.names[button.dataset.label].toLowerCase();
      button.hidden = !name.includes(wanted);
      button.classList.remove("found");
      if (!button.hidden && wanted) found.push(button);
    }
    const exact = found.find((b) => this.names[b.dataset.label].toLowerCase() === wanted);
    const starts = found.find((b) => this.names[b.dataset.label].toLowerCase().startsWith(wanted));
    this.best = exact ?? starts ?? found[0] ?? null;
    this.best?.classList.add("found");
  }

  searched(event) {
    if (event.key === "Escape") this.endSearch();
    if (event.key === "Enter" && this.best) {
      event.preventDefault();
      const label = Number(this.best.dataset.label);
      this.endSearch();
      this.onChoice(label);
    }
  }

  endSearch() {
    this.search.value = "";
    this.filter();
    this.search.hidden = this.names.length < SEARCHED_FROM;
    this.box.focus({ preventScroll: true });
  }
}
