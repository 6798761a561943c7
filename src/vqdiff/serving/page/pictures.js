// Buttons of the pictures: what they are about goes with the event.
element.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-act]");
  const card = button && button.closest("[data-drawing]");
  if (!card) return;
  const data = { picture: card.querySelector("img").src, drawing: card.dataset.drawing };
  // Named one by one: Gradio looks for the names in this text.
  if (button.dataset.act === "edit") trigger("edit", data);
  if (button.dataset.act === "why") trigger("why", data);
  if (button.dataset.act === "keep") trigger("keep", data);
});
