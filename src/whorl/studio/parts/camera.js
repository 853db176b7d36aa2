// A photograph taken here: what the camera sees, until it is taken.

import { button, make } from "./dom.js";

// take(blob): a photograph. The node is a button; where the browser has no camera, nothing.
export function camera(take) {
  if (!navigator.mediaDevices?.getUserMedia) return null;
  const told = make("span", { class: "note", role: "status" });
  const video = make("video", { class: "photo", muted: true, playsInline: true, hidden: true, aria: { label: "What the camera sees" } });
  let [stream, asking] = [null, false];

  function close() {
    stream?.getTracks().forEach((track) => track.stop());
    stream = null;
    video.srcObject = null;
    video.hidden = cancel.hidden = true;
    toggle.textContent = "Photograph";
  }

  async function open() {
    if (asking) return; // whether it may: the person has not said so yet
    asking = true;
    told.textContent = "";
    stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } }).catch(() => null);
    asking = false;
    if (!stream) return void (told.textContent = "There is no camera, or it may not be used.");
    video.srcObject = stream;
    video.hidden = cancel.hidden = false;
    toggle.textContent = "Take it";
    await video.play().catch(() => {});
  }

  async function press() {
    if (!stream) return open();
    if (!video.videoWidth) return; // it has not begun
    const canvas = make("canvas", { width: video.videoWidth, height: video.videoHeight });
    canvas.getContext("2d").drawImage(video, 0, 0);
    const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
    close();
    if (blob) take(blob);
  }

  const toggle = button("Photograph", press);
  const cancel = button("Cancel", close, { class: "quiet", hidden: true });
  return make("div", { class: "camera" }, video, make("div", { class: "row" }, toggle, cancel, told));
}
