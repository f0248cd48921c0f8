// Any recording that the browser can play, or a new one, as a WAV file in one channel at the model's rate.

const BYTES = 2;
const HEAD_BYTES = 44;
const FULL_SCALE = 0x7fff;
export const RECORDED_MAX_S = 30;

/** @returns {Promise<{samples: Float32Array, rateHz: number}>} */
export async function decoded(blob, rateHz) {
  // A context that renders offline resamples to its own rate as it decodes.
  const context = new OfflineAudioContext(1, 1, rateHz);
  const buffer = await context.decodeAudioData(await blob.arrayBuffer());
  const channels = Array.from({ length: buffer.numberOfChannels }, (_, at) => buffer.getChannelData(at));
  const samples = Float32Array.from(channels[0], (_, at) => channels.reduce((sum, it) => sum + it[at], 0) / channels.length);
  return { samples, rateHz };
}

/** A WAV file of 16-bit integers. */
export function wav({ samples, rateHz }) {
  const view = new DataView(new ArrayBuffer(HEAD_BYTES + samples.length * BYTES));
  const ascii = (at, text) => [...text].forEach((letter, i) => view.setUint8(at + i, letter.charCodeAt(0)));
  ascii(0, "RIFF");
  view.setUint32(4, view.byteLength - 8, true);
  ascii(8, "WAVEfmt ");
  view.setUint32(16, 16, true);
  view.setUint16(20, 1, true);
  view.setUint16(22, 1, true);
  view.setUint32(24, rateHz, true);
  view.setUint32(28, rateHz * BYTES, true);
  view.setUint16(32, BYTES, true);
  view.setUint16(34, 8 * BYTES, true);
  ascii(36, "data");
  view.setUint32(40, samples.length * BYTES, true);
  samples.forEach((sample, i) =>
    view.setInt16(HEAD_BYTES + i * BYTES, Math.round(Math.max(-1, Math.min(1, sample)) * FULL_SCALE), true),
  );
  return new Blob([view], { type: "audio/wav" });
}

export async function base64(blob) {
  const bytes = new Uint8Array(await blob.arrayBuffer());
  let text = "";
  for (let at = 0; at < bytes.length; at += 0x8000) text += String.fromCharCode(...bytes.subarray(at, at + 0x8000));
  return btoa(text);
}

/** Browsers give the microphone to pages from this machine or over TLS only. */
export const canRecord = () => Boolean(navigator.mediaDevices && window.MediaRecorder);

/** Begins to record. @returns {Promise<() => Promise<Blob>>} ends it. */
export async function recording() {
  const stream = await navigator.mediaDevices.getUserMedia({ audio: true });
  const recorder = new MediaRecorder(stream);
  const pieces = [];
  const ended = new Promise((resolve) => recorder.addEventListener("stop", resolve));
  recorder.addEventListener("dataavailable", ({ data }) => pieces.push(data));
  recorder.start();
  return async () => {
    if (recorder.state !== "inactive") recorder.stop();
    await ended;
    stream.getTracks().forEach((track) => track.stop());
    return new Blob(pieces, { type: recorder.mimeType });
  };
}
