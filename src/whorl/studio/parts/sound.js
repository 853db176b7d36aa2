// An input of sound: recorded here, dropped, or from a file. What the browser can decode is sent as a
// WAV of one channel at the codec's rate; anything else as it is, for the server to judge.

import { button, make } from "./dom.js";
import { base64 } from "./png.js";

const MOST_S = 30; // of a recording
const WAV_HEAD = 44; // bytes

export function soundInput(codec, changed) {
  const rate = codec.rate ?? 16000;
  const told = make("p", { class: "note", role: "status" }, "Record, drop or choose a sound.");
  const chooser = make("input", { type: "file", accept: "audio/*", aria: { label: `${codec.name}: a file` } });
  let [bytes, recorder, asking, taken] = [null, null, false, 0];

  async function take(blob) {
    const number = ++taken;
    const given = new Uint8Array(await blob.arrayBuffer());
    const sound = await samplesOf(given.slice().buffer, rate).catch(() => null);
    if (number !== taken) return; // a later one came meanwhile
    bytes = sound ? wavOf(sound, rate) : given;
    told.textContent = sound ? `${(sound.length / rate).toFixed(1)} s of sound.` : `${given.length} bytes, as they are.`;
    changed();
  }

  async function record() {
    if (recorder) return recorder.stop();
    if (asking) return; // whether it may: the person has not said so yet
    asking = true;
    const stream = await navigator.mediaDevices.getUserMedia({ audio: true }).catch(() => null);
    asking = false;
    if (!stream) return void (told.textContent = "There is no microphone, or it may not be used.");
    const pieces = [];
    recorder = new MediaRecorder(stream);
    recorder.addEventListener("dataavailable", ({ data }) => pieces.push(data));
    recorder.addEventListener("stop", () => {
      clearTimeout(limit);
      stream.getTracks().forEach((track) => track.stop());
      recorder = null;
      toggle.textContent = "Record";
      take(new Blob(pieces));
    });
    const limit = setTimeout(() => recorder?.stop(), 1000 * MOST_S);
    recorder.start();
    toggle.textContent = "Stop";
    told.textContent = "Recording …";
  }

  const toggle = button("Record", record);
  chooser.addEventListener("change", () => chooser.files[0] && take(chooser.files[0]));
  const node = make("div", { class: "beside" }, toggle, chooser, told);
  node.addEventListener("dragover", (event) => event.preventDefault());
  node.addEventListener("drop", (event) => {
    event.preventDefault();
    if (event.dataTransfer.files[0]) take(event.dataTransfer.files[0]);
  });
  return { node, part: async () => ({ codec: codec.name, data: base64(bytes) }), ready: () => bytes !== null };
}

// Of any file that the browser plays: one channel at this rate, -1 to 1.
async function samplesOf(buffer, rate) {
  const sound = await new OfflineAudioContext(1, 1, rate).decodeAudioData(buffer);
  const channels = Array.from({ length: sound.numberOfChannels }, (_, n) => sound.getChannelData(n));
  return channels[0].map((_, n) => channels.reduce((sum, each) => sum + each[n], 0) / channels.length);
}

// 16 bits.
function wavOf(samples, rate) {
  const view = new DataView(new ArrayBuffer(WAV_HEAD + 2 * samples.length));
  const word = (at, text) => [...text].forEach((char, n) => view.setUint8(at + n, char.charCodeAt(0)));
  word(0, "RIFF");
  view.setUint32(4, view.byteLength - 8, true);
  word(8, "WAVEfmt ");
  for (const [at, value] of [[16, 16], [24, rate], [28, 2 * rate], [40, 2 * samples.length]]) view.setUint32(at, value, true);
  for (const [at, value] of [[20, 1], [22, 1], [32, 2], [34, 16]]) view.setUint16(at, value, true);
  word(36, "data");
  samples.forEach((each, n) => view.setInt16(WAV_HEAD + 2 * n, Math.round(32767 * Math.max(-1, Math.min(1, each))), true));
  return new Uint8Array(view.buffer);
}
