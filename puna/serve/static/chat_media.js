'use strict';
// Pictures, videos and sounds for the next message: by button, drop or paste, with thumbnails. They travel as data: URLs.
const KINDS = { image: 'image/*', video: 'video/*', audio: 'audio/*' };

// OpenAI's content parts: media first, as the model learnt it, then the text.
function parts(media, text) {
  const shown = media.map(({ kind, url }) => ({ type: `${kind}_url`, [`${kind}_url`]: { url } }));
  return text.trim() ? [...shown, { type: 'text', text }] : shown;
}

function thumbnail({ kind, name, url }) {
  const picture = document.createElement(kind === 'image' ? 'img' : kind);
  picture.src = url; picture.title = name;
  if (kind === 'image') picture.alt = name;
  else { picture.muted = kind === 'video'; picture.controls = true; picture.preload = 'metadata'; picture.setAttribute('aria-label', name); }
  return picture;
}

function thumbnails(media) {
  const row = document.createElement('p');
  row.className = 'media'; row.append(...media.map(thumbnail));
  return row;
}

class Attachments {
  // `refuse` says why a file is not taken.
  constructor(refuse) {
    this.waiting = []; this.kinds = []; this.refuse = refuse;
    this.list = document.getElementById('waiting'); this.files = document.getElementById('files');
    this.button = document.getElementById('attach');
    this.button.addEventListener('click', () => this.files.click());
    this.files.addEventListener('change', () => { this.add(this.files.files); this.files.value = ''; });
    document.addEventListener('paste', event => this.take_from(event, event.clipboardData));
    document.addEventListener('dragover', event => {
      if (event.dataTransfer.types.includes('Files')) { event.preventDefault(); document.body.classList.add('drop'); }
    });
    document.addEventListener('dragleave', event => { if (!event.relatedTarget) document.body.classList.remove('drop'); });
    document.addEventListener('drop', event => {
      document.body.classList.remove('drop'); this.take_from(event, event.dataTransfer);
    });
  }

  // What the served model takes besides text.
  allow(modalities) {
    this.kinds = modalities.filter(kind => kind in KINDS);
    this.button.hidden = !this.kinds.length;
    this.files.accept = this.kinds.map(kind => KINDS[kind]).join(',');
  }

  take_from(event, data) {
    if (!data || !data.files.length) return;
    event.preventDefault(); this.add(data.files);
  }

  async add(files) {
    for (const file of [...files]) {
      const kind = file.type.split('/')[0];
      if (!this.kinds.includes(kind)) {
        this.refuse(this.kinds.length ? `${file.name}: this model takes ${this.kinds.join('s and ')}s` : 'this model reads text alone');
        continue;
      }
      this.waiting.push({ kind, name: file.name || kind, url: await asDataUrl(file) });
    }
    this.show();
  }

  // The waiting ones, which are then no longer waiting.
  take() {
    const taken = this.waiting;
    this.waiting = []; this.show();
    return taken;
  }

  show() {
    this.list.hidden = !this.waiting.length;
    this.list.replaceChildren(...this.waiting.map(medium => {
      const item = document.createElement('li'), remove = document.createElement('button');
      remove.type = 'button'; remove.textContent = '×'; remove.setAttribute('aria-label', `remove ${medium.name}`);
      remove.addEventListener('click', () => { this.waiting = this.waiting.filter(other => other !== medium); this.show(); });
      item.append(thumbnail(medium), remove);
      return item;
    }));
  }
}

function asDataUrl(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result); reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(file);
  });
}
