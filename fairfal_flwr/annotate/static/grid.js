// Many open questions that look alike, to be answered at once.

import { call, image } from "./api.js";
import { at, element } from "./element.js";

export class Grid {
  constructor({ onChange }) {
    this.onChange = onChange;
    this.items = [];
    this.chosen = new Set();
    this.place = 0;
    this.anchor = 0;
    this.tiles = at("tiles");
    this.tiles.addEventListener("click", (event) => this.clicked(event));
    this.tiles.addEventListener("keydown", (event) => this.pressed(event));
    this.tiles.addEventListener("focusin", (event) => this.visited(event));
    at("all").addEventListener("click", () => this.all(true));
    at("none").addEventListener("click", () => this.all(false));
    at("group").addEventListener("change", (event) => this.open(event.target.value));
  }

  get ids() {
    return this.items.map((item) => item.id);
  }

  get selected() {
    return this.items.filter((item) => this.chosen.has(item.id));
  }

  // Shows the questions of a group; without one, that of the first question.
  async open(group) {
    const sent = { desk: this.desk };
    if (group !== undefined) sent.suggestion = group === "" ? null : Number(group);
    const said = await call("grid", sent);
    this.group = said.suggestion ?? "";
    this.items = said.items;
    this.chosen = new Set(this.ids);
    this.place = this.anchor = 0;
    this.listGroups(said.groups);
    this.draw();
    this.onChange();
  }

  async reopen() {
    await this.open(this.group);
    if (!this.items.length && at("group").options.length) await this.open();
  }

  // What was answered goes; nothing that is left is selected before the next look.
  drop(answered) {
    this.items = this.items.filter(({ id }) => !answered.has(id));
    this.chosen = new Set();
    this.place = this.anchor = 0;
    this.draw();
    this.onChange();
  }

  listGroups(groups) {
    at("group").replaceChildren(
      ...groups.map(({ suggestion, open }) => {
        const name = suggestion === null ? "no suggestion" : this.names[suggestion];
        return element("option", { value: suggestion ?? "" }, `${name} (${open})`);
      }),
    );
    at("group").value = this.group;
  }

  draw() {
    this.tiles.replaceChildren(
      ...this.items.map((item, number) => {
        const picture = element("img", { alt: "", draggable: "false" });
        const tile = element(
          "div",
          { role: "option", class: "tile", "aria-label": `Image ${number + 1} of ${this.items.length}` },
          picture,
        );
        image(this.desk, item.id, { thumb: true }).then(({ url, error }) => {
          if (url) picture.src = url;
          else picture.replaceWith(element("p", {}, error));
        });
        return tile;
      }),
    );
    this.mark();
  }

  mark() {
    [...this.tiles.children].forEach((tile, number) => {
      tile.setAttribute("aria-selected", this.chosen.has(this.items[number].id));
      tile.tabIndex = number === this.place ? 0 : -1;
    });
    at("chosen").textContent = `${this.chosen.size} of ${this.items.length} selected`;
  }

  all(yes) {
    this.chosen = new Set(yes ? this.ids : []);
    this.mark();
    this.onChange();
  }

  toggle(number) {
    const { id } = this.items[number];
    if (!this.chosen.delete(id)) this.chosen.add(id);
    this.place = this.anchor = number;
  }

  range(number) {
    const [low, high] = [Math.min(this.anchor, number), Math.max(this.anchor, number)];
    const yes = this.chosen.has(this.items[this.anchor].id);
    for (const { id } of this.items.slice(low, high + 1)) {
      if (yes) this.chosen.add(id);
      else this.chosen.delete(id);
    }
    this.place = number;
  }

  clicked(event) {
    const number = [...this.tiles.children].indexOf(event.target.closest(".tile"));
    if (number < 0) return;
    if (event.shiftKey) this.range(number);
    else this.toggle(number);
    this.mark();
    this.onChange();
  }

  visited(event) {
    const number = [...this.tiles.children].indexOf(event.target);
    if (number >= 0) this.place = number;
  }

  pressed(event) {
    const perRow = getComputedStyle(this.tiles).gridTemplateColumns.split(" ").length;
    const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -perRow, ArrowDown: perRow };
    const step = steps[event.key];
    if (event.key === " ") this.toggle(this.place);
    else if (step && this.items[this.place + step]) {
      if (event.shiftKey) this.range(this.place + step);
      else this.place = this.anchor = this.place + step;
    } else return;
    event.preventDefault();
    event.stopPropagation();
    this.mark();
    this.tiles.children[this.place].focus();
    this.onChange();
  }
}
