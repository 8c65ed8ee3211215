// A picture that is pressed is shown as large as the window allows.

function startPictures() {
  const dialog = byId("enlarged");
  byId("pictures")?.addEventListener("click", (event) => {
    const picture = event.target.closest("button.picture")?.querySelector("img");
    if (!picture) return;
    const large = dialog.querySelector("img");
    large.src = picture.src;
    large.alt = picture.alt;
    dialog.querySelector("p").textContent = picture.alt;
    dialog.showModal();
  });
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
}
