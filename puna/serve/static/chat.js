'use strict';
// Chat through the same API other programs use. Model output only ever goes into textContent, never into markup.
const byId = id => document.getElementById(id);
const log = byId('log'), prompt = byId('prompt'), SETTINGS = ['system', 'temperature', 'top_p', 'max_tokens', 'seed'];
let messages = [], running = null;

function show(role, text, media = []) {
  byId('hint').hidden = true;
  const article = document.createElement('article'), name = document.createElement('b'), body = document.createElement('div');
  article.className = role; name.textContent = role; body.textContent = text;
  article.append(name, ...(media.length ? [thumbnails(media)] : []), body); log.append(article); follow(true);
  return article;
}

function follow(always) {
  if (always || log.scrollHeight - log.scrollTop - log.clientHeight < 120) log.scrollTop = log.scrollHeight;
}

function request() {
  const number = id => (byId(id).value.trim() === '' ? undefined : Number(byId(id).value));
  const system = byId('system').value;
  return {
    messages: system ? [{ role: 'system', content: system }, ...messages] : messages,
    temperature: number('temperature') ?? 0, top_p: number('top_p') ?? 1, max_tokens: number('max_tokens'), seed: number('seed'),
    stream: true, stream_options: { include_usage: true },
  };
}

async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let buffer = '';
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const parts = (buffer + value).split('\n\n');
    buffer = parts.pop();
    for (const part of parts) {
      const data = part.replace(/^data: /, '');
      if (data === '[DONE]') return;
      yield JSON.parse(data);
    }
  }
}

async function answer() {
  const article = show('assistant', ''), body = article.lastChild;
  article.classList.add('open');
  const talk = messages;
  let text = '', call = '', pieces = 0, tokens = 0, failed = false;
  const began = performance.now();
  const speed = () => {
    const seconds = (performance.now() - began) / 1000, count = tokens || pieces;  // the prompt's time included
    byId('speed').textContent = `${count} tokens · ${(count / seconds).toFixed(0)} tokens/s`;
  };
  running = new AbortController();
  busy(true);
  try {
    const response = await fetch('/v1/chat/completions', {
      method: 'POST', headers: { 'Content-Type': 'application/json' }, body: JSON.stringify(request()), signal: running.signal,
    });
    if (!response.ok) throw new Error((await response.json()).error.message);
    for await (const chunk of events(response)) {
      if (chunk.error) throw new Error(chunk.error.message);
      if (chunk.usage) tokens = chunk.usage.completion_tokens;
      const delta = chunk.choices[0]?.delta ?? {};
      if (delta.content || delta.tool_calls) pieces += 1;
      text += delta.content ?? '';
      for (const c of delta.tool_calls ?? []) call += `${c.function.name}(${c.function.arguments})`;
      body.textContent = text + (call && `${text && '\n'}calls ${call}`);
      speed(); follow(false);
    }
    if (!text && !call) body.textContent = '(an empty answer)';
  } catch (error) {
    if (error.name !== 'AbortError') { failed = true; show('error', error.message); }
  } finally {
    article.classList.remove('open');
    if (text || call) talk.push({ role: 'assistant', content: text + call });
    else if (failed) { talk.pop(); article.remove(); }  // the question was not answered: leave it out of the next request
    else talk.push({ role: 'assistant', content: '' });
    running = null; busy(false);
  }
}

function busy(on) {
  byId('send').hidden = on; byId('stop').hidden = !on;
  if (!on) prompt.focus();
}

function send() {
  const text = prompt.value;
  if (!(text.trim() || attachments.waiting.length) || running) return;
  const media = attachments.take();
  messages.push({ role: 'user', content: media.length ? parts(media, text) : text });
  show('user', text, media);
  prompt.value = ''; grow(); answer();
}

function grow() { prompt.style.height = 'auto'; prompt.style.height = `${prompt.scrollHeight + 2}px`; }
function stop() { if (running) running.abort(); }

byId('form').addEventListener('submit', event => { event.preventDefault(); send(); });
byId('stop').addEventListener('click', stop);
byId('reset').addEventListener('click', () => {
  stop(); messages = []; attachments.take(); byId('speed').textContent = '';
  log.replaceChildren(byId('hint')); byId('hint').hidden = false; prompt.focus();
});
byId('toggle').addEventListener('click', () => {
  const hidden = byId('settings').toggleAttribute('hidden');
  byId('toggle').setAttribute('aria-expanded', String(!hidden));
});
const attachments = new Attachments(what => show('error', what));
const microphone = new Microphone(attachments, what => show('error', what));
prompt.addEventListener('input', grow);
prompt.addEventListener('keydown', event => {
  if (event.key === 'Enter' && !event.shiftKey && !event.isComposing) { event.preventDefault(); send(); }
});
document.addEventListener('keydown', event => { if (event.key === 'Escape') stop(); });
for (const id of SETTINGS) {
  const kept = sessionStorage.getItem(`puna.${id}`);
  if (kept !== null) byId(id).value = kept;
  byId(id).addEventListener('change', () => sessionStorage.setItem(`puna.${id}`, byId(id).value));
}
fetch('/v1/models').then(reply => reply.json()).then(list => {
  byId('model').textContent = list.data[0].id; document.title = `${list.data[0].id} · puna chat`;
  byId('max_tokens').max = list.data[0].max_model_len;
  attachments.allow(list.data[0].input_modalities);
  microphone.allow(list.data[0].input_modalities);
}).catch(() => show('error', 'the server does not answer'));
