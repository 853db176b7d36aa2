// Elements made from what is known, with texts that stay texts: nothing here reads HTML.

export const at = (id) => document.getElementById(id);

// make("p", {class: "note", aria: {label: "x"}, on: {click: f}, title: "t"}, "text", child, …)
export function make(tag, options = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(options)) {
    if (value === undefined || value === null) continue;
    if (name === "class") node.className = value;
    else if (name === "on") {
      for (const [event, listener] of Object.entries(value)) node.addEventListener(event, listener);
    } else if (name === "aria") {
      for (const [key, text] of Object.entries(value)) node.setAttribute(`aria-${key}`, text);
    } else if (name === "role" || name === "for") node.setAttribute(name, value);
    else node[name] = value;
  }
  node.append(...children.filter((child) => child !== null && child !== undefined && child !== ""));
  return node;
}

export function button(text, onClick, options = {}) {
  return make("button", { type: "button", on: { click: onClick }, ...options }, text);
}

// Said by screen readers, seen by nobody.
export function announce(text) {
  at("status").textContent = text;
}

export function showError(error) {
  const text = error instanceof Error ? error.message : String(error);
  at("error").textContent = text.charAt(0).toUpperCase() + text.slice(1);
  at("error").hidden = false;
}

export function clearError() {
  at("error").hidden = true;
}

export function fill(select, options, chosen) {
  select.replaceChildren(
    ...options.map(([value, text]) => make("option", { value, selected: value === chosen }, text)),
  );
}

// Waits for the person's next move of a dialog: true if it was confirmed.
export function opened(dialog) {
  dialog.returnValue = "";
  if (!dialog.open) dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true });
  });
}
