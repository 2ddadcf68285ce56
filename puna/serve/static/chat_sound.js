'use strict';
// The microphone: one press records, the next ends it. What comes waits with the other attachments, as WAV of 16 kHz, which every
// server reads whatever the browser records in.
const RATE = 16000, LONGEST_MS = 60000;

class Microphone {
  constructor(attachments, refuse) {
    this.attachments = attachments; this.refuse = refuse; this.recorder = null; this.asking = false;
    this.button = document.getElementById('microphone');
    this.button.addEventListener('click', () => (this.recorder ? this.recorder.stop() : this.record()));
  }

  // Browsers give the microphone to pages of this machine, or over TLS, alone.
  allow(modalities) {
    this.button.hidden = !modalities.includes('audio') || !navigator.mediaDevices || !window.MediaRecorder;
  }

  async record() {
    if (this.asking) return;
    this.asking = true;
    let stream = null;
    try {
      const parts = [];
      stream = await navigator.mediaDevices.getUserMedia({ audio: true });
      this.recorder = new MediaRecorder(stream);
      this.recorder.addEventListener('dataavailable', event => parts.push(event.data));
      const limit = setTimeout(() => this.recorder && this.recorder.stop(), LONGEST_MS);
      this.recorder.addEventListener('stop', () => {
        clearTimeout(limit);
        stream.getTracks().forEach(track => track.stop());
        this.recorder = null; this.press(false);
        this.take(new Blob(parts));
      });
      this.recorder.start();
      this.press(true);
    } catch (error) {
      if (stream) stream.getTracks().forEach(track => track.stop());
      this.recorder = null; this.press(false);
      this.refuse(`the microphone is not to be had: ${error.message}`);
    } finally {
      this.asking = false;
    }
  }

  press(on) {
    this.button.setAttribute('aria-pressed', String(on)); this.button.textContent = on ? '■' : '●';
    this.button.title = on ? 'End the recording' : 'Record a message';
    this.button.setAttribute('aria-label', on ? 'end the recording' : 'record a message');
  }

  async take(blob) {
    try {
      const context = new AudioContext(), sound = await context.decodeAudioData(await blob.arrayBuffer());
      context.close();
      const mono = new OfflineAudioContext(1, Math.max(1, Math.ceil(sound.duration * RATE)), RATE), source = mono.createBufferSource();
      source.buffer = sound; source.connect(mono.destination); source.start();
      const wave = asWave((await mono.startRendering()).getChannelData(0));
      await this.attachments.add([new File([wave], 'recording.wav', { type: 'audio/wav' })]);
    } catch (error) {
      this.refuse(`the recording cannot be read: ${error.message}`);
    }
  }
}

// Samples in -1..1 as a WAV file of 16 bits, one channel.
function asWave(samples) {
  const view = new DataView(new ArrayBuffer(44 + 2 * samples.length));
  const text = (at, word) => [...word].forEach((letter, i) => view.setUint8(at + i, letter.charCodeAt(0)));
  text(0, 'RIFF'); view.setUint32(4, 36 + 2 * samples.length, true); text(8, 'WAVEfmt ');
  view.setUint32(16, 16, true); view.setUint16(20, 1, true); view.setUint16(22, 1, true);
  view.setUint32(24, RATE, true); view.setUint32(28, 2 * RATE, true); view.setUint16(32, 2, true); view.setUint16(34, 16, true);
  text(36, 'data'); view.setUint32(40, 2 * samples.length, true);
  samples.forEach((sample, i) => view.setInt16(44 + 2 * i, Math.round(32767 * Math.max(-1, Math.min(1, sample))), true));
  return view.buffer;
}
