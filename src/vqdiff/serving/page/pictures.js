// Buttons of the images: the event carries the image and its request.
element.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-act]");
  const card = button && button.closest("[data-drawing]");
  if (!card) return;
  const data = { picture: card.querySelector("img").src, drawing: card.dataset.drawing };
  // Spelled out, because Gradio searches this text for the names.
  if (button.dataset.act === "edit") trigger("edit", data);
  if (button.dataset.act === "why") trigger("why", data);
  if (button.dataset.act === "keep") trigger("keep", data);
});
