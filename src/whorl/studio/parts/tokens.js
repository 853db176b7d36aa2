// An answer as its tokens: how sure the model was of each, and what else was likely.

import { at, make } from "./dom.js";

const LEVELS = [0.9, 0.6, 0.3, 0.1]; // probabilities between which a token's tint changes
const MAX_SHOWN = 8; // alternatives of one token

const probability = (logprob) => (logprob === null ? null : Math.exp(Math.min(0, logprob)));

export function percent(share) {
  if (share === null) return "–";
  if (share > 0 && share < 0.001) return "< 0.1%";
  return `${(100 * share).toFixed(share < 0.1 ? 1 : 0)}%`;
}

// A text as it can be seen: spaces and line ends have signs.
function visible(text) {
  const signs = { " ": "␣", "\n": "⏎", "\t": "⇥", "\r": "␍" };
  return text === "" ? "(nothing)" : text.replaceAll(/[ \n\t\r]/g, (char) => signs[char]);
}

export function tokenView(tokens) {
  const view = make("div", { class: "tokens", role: "group", aria: { label: "Tokens of the answer" } });
  tokens.forEach((token, place) => {
    const share = probability(token.logprob);
    const level = share === null ? 0 : LEVELS.filter((limit) => share < limit).length;
    const node = make("span", { class: `token p${level}`, tabIndex: place === 0 ? 0 : -1 }, token.text);
    const text = visible(token.text);
    node.setAttribute("aria-label", `${text}, ${percent(share)}`);
    node.setAttribute("role", "note");
    node.addEventListener("pointerenter", () => showTip(node, token));
    node.addEventListener("pointerleave", hideTip);
    node.addEventListener("focus", () => showTip(node, token));
    node.addEventListener("blur", hideTip);
    view.append(node);
  });
  view.addEventListener("keydown", walk);
  return view;
}

function walk(event) {
  const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  const nodes = [...event.currentTarget.children];
  const place = nodes.indexOf(document.activeElement);
  const next = event.key === "Home" ? nodes[0] : event.key === "End" ? nodes.at(-1) : nodes[place + step];
  if (!next) return;
  event.preventDefault();
  nodes[place].tabIndex = -1;
  next.tabIndex = 0;
  next.focus();
}

function showTip(node, token) {
  const tip = at("token-tip");
  const share = probability(token.logprob);
  const others = token.top.some((each) => each.text === token.text)
    ? token.top : [{ text: token.text, logprob: token.logprob }, ...token.top];
  tip.replaceChildren(
    make("p", {}, make("b", {}, visible(token.text)), ` ${percent(share)}`),
    bars(others.slice(0, MAX_SHOWN), token.text),
  );
  node.setAttribute("aria-describedby", "token-tip");
  tip.hidden = false;
  const place = node.getBoundingClientRect();
  const left = Math.min(place.left, window.innerWidth - tip.offsetWidth - 8);
  const below = place.bottom + 6;
  const fits = below + tip.offsetHeight < window.innerHeight;
  tip.style.left = `${Math.max(8, left)}px`;
  tip.style.top = `${fits ? below : Math.max(8, place.top - tip.offsetHeight - 6)}px`;
}

export function hideTip() {
  at("token-tip").hidden = true;
}
window.addEventListener("scroll", hideTip, { passive: true });

// Texts with their probabilities as bars; [{text, logprob}], the chosen one marked.
// asIs: they are names, whose blanks need no signs.
export function bars(choices, chosen, asIs = false) {
  const rows = choices.map(({ text, logprob }) => {
    const share = probability(logprob);
    const bar = make("span", { class: "bar" });
    bar.style.width = `${100 * (share ?? 0)}%`;
    const name = make("span", { class: asIs ? "name words" : "name", title: asIs ? text : undefined }, asIs ? text : visible(text));
    const track = make("span", { class: "track", aria: { hidden: "true" } }, bar);
    return make("li", { class: text === chosen ? "chosen" : "" }, name, track, make("span", {}, percent(share)));
  });
  return make("ul", { class: "bars" }, ...rows);
}
