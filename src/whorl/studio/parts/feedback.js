// What a person thinks of an answer: good or bad, and how it should have been.

import { send } from "./api.js";
import { button, make } from "./dom.js";

export function sendFeedback(fields) {
  return send("/v1/feedback", { body: fields });
}

// Buttons for an answer's foot, and the place of the correction below it.
export function feedbackBar(answer) {
  const told = make("span", { class: "note", role: "status" });
  const about = () => ({ id: answer.id, model: answer.model.id, ...answer.asked, answer: answer.text });
  const give = async (fields, thanks) => {
    try {
      await sendFeedback({ ...about(), ...fields });
      told.textContent = thanks;
      return true;
    } catch (error) {
      told.textContent = error.status === 404 || error.status === 405
        ? "This server keeps no opinions." : error.message;
      return false;
    }
  };
  const rate = (rating, word) => {
    const each = button(word, async () => {
      if (!(await give({ rating }, "Kept, thank you."))) return;
      for (const other of bar.querySelectorAll("[aria-pressed]")) {
        other.setAttribute("aria-pressed", String(other === each));
      }
    }, { aria: { pressed: "false" } });
    return each;
  };
  const correction = correctionForm(answer, give);
  const correct = button("Correct…", () => {
    correction.hidden = !correction.hidden;
    correct.setAttribute("aria-expanded", String(!correction.hidden));
    if (!correction.hidden) correction.querySelector("textarea").focus();
  }, { aria: { expanded: "false" } });
  const bar = make("div", { class: "actions opinion", role: "group", aria: { label: "Your opinion" } },
    rate("up", "Good"), rate("down", "Bad"), answer.text ? correct : null, told);
  return [bar, correction];
}

function correctionForm(answer, give) {
  const area = make("textarea", {
    rows: 4, value: answer.text, aria: { label: "How the answer should have been" },
  });
  const save = async () => {
    if (await give({ correction: area.value }, "Your correction is kept, thank you.")) form.hidden = true;
  };
  const form = make("form", { class: "correction", hidden: true, on: { submit: (event) => event.preventDefault() } },
    make("p", { class: "note" }, "Write how it should have been. It is kept with the question, for the next version of the model."),
    area,
    make("div", { class: "row" }, make("span", { class: "spring" }), button("Keep the correction", save, { class: "main" })));
  return form;
}
