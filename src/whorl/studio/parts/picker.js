// A box to type in that offers the values which fit: by pointer, or arrow keys and Enter.

import { make } from "./dom.js";

const MOST = 8; // offered at once
let count = 0; // of pickers, for ids

export class Picker {
  values = [];
  #offered = [];
  #at = -1; // of the offered, the one that Enter takes

  // label: for screen readers and above the box; pick(value): it was chosen
  // keeps: the box shows what was chosen, and is not emptied for the next
  constructor({ label, placeholder = "", pick, keeps = false }) {
    Object.assign(this, { pick, keeps });
    count += 1;
    const [box, list] = [`picker-${count}`, `picker-${count}-list`];
    this.list = make("ul", { id: list, class: "offers", role: "listbox", hidden: true, aria: { label } });
    this.box = make("input", {
      id: box, type: "text", role: "combobox", autocomplete: "off", spellcheck: false, placeholder,
      aria: { expanded: "false", controls: list, autocomplete: "list" },
      on: {
        input: () => this.#offer(), focus: () => this.#offer(), blur: () => this.#close(), keydown: (event) => this.#key(event),
        click: () => this.#offer(),
      },
    });
    this.node = make("div", { class: "picker" }, make("label", { for: box }, label), this.box, this.list);
  }

  get value() {
    return this.values.includes(this.box.value) ? this.box.value : "";
  }

  set value(text) {
    this.box.value = text;
  }

  // Those that begin so come before those with it inside.
  #fitting() {
    const text = this.keeps && this.value ? "" : this.box.value.trim().toLowerCase();
    if (!text) return this.values.slice(0, MOST);
    const low = this.values.map((value) => value.toLowerCase());
    const first = this.values.filter((_, n) => low[n].startsWith(text));
    const inside = this.values.filter((_, n) => !low[n].startsWith(text) && low[n].includes(text));
    return [...first, ...inside].slice(0, MOST);
  }

  #offer() {
    this.#offered = this.#fitting();
    this.#at = this.box.value.trim() && this.#offered.length ? 0 : -1;
    this.#show();
  }

  #show() {
    const rows = this.#offered.map((value, place) => make("li", {
      id: `${this.list.id}-${place}`, role: "option", aria: { selected: String(place === this.#at) },
      on: { pointerdown: (event) => { event.preventDefault(); this.#take(value); } },
    }, value));
    const none = this.box.value.trim() && this.values.length ? [make("li", { class: "note" }, "Nothing here has that name.")] : [];
    this.list.replaceChildren(...(rows.length ? rows : none));
    this.list.hidden = !this.list.children.length;
    this.box.setAttribute("aria-expanded", String(!this.list.hidden));
    if (this.#at >= 0) this.box.setAttribute("aria-activedescendant", `${this.list.id}-${this.#at}`);
    else this.box.removeAttribute("aria-activedescendant");
  }

  #key(event) {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (step && this.#offered.length) {
      if (this.list.hidden) this.#offer();
      else this.#at = (this.#at + step + this.#offered.length) % this.#offered.length;
      this.#show();
    } else if (event.key === "Enter" && !event.ctrlKey && !event.metaKey) {
      if (!this.list.hidden && this.#at >= 0) this.#take(this.#offered[this.#at]);
    } else if (event.key === "Escape" && !this.list.hidden) this.#close();
    else return;
    event.preventDefault();
  }

  #take(value) {
    this.box.value = this.keeps ? value : "";
    this.#close();
    this.pick(value);
  }

  #close() {
    this.list.hidden = true;
    this.box.setAttribute("aria-expanded", "false");
    this.box.removeAttribute("aria-activedescendant");
  }
}
