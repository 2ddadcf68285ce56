'use strict';
// Two answers to compare. Whatever a model or a file says only ever goes into textContent or a field's value, never into markup.
const byId = id => document.getElementById(id);
const STRENGTHS = ['significantly', 'better', 'slightly', 'marginally'];
const WORDS = { significantly: 'significantly better', better: 'better', slightly: 'slightly better', marginally: 'marginally better' };
const SCALE = [...STRENGTHS.map(s => ['left', s]), ...[...STRENGTHS].reverse().map(s => ['right', s])];
let name = localStorage.getItem('puna.annotator') ?? '', state = null, chosen = -1, since = 0, busy = false;

function part(role, text, kind) {
  const article = document.createElement('article'), head = document.createElement('b'), body = document.createElement('div');
  article.className = role; head.textContent = role; body.textContent = text;
  if (kind) body.className = kind;
  article.append(head, body);
  return article;
}

function parts(message) {
  const found = [];
  if (message.content || !message.tool_calls) found.push(part(message.role, message.content || '(empty)'));
  if (message.tool_calls) found.push(part('calls', message.tool_calls, 'call'));
  return found;
}

function fill(side) {
  const place = byId(side), after = document.createElement('div');
  after.className = 'followed';
  for (const message of state.item[side].followed) after.append(...parts(message));
  place.replaceChildren(...parts(state.item[side].message), ...(after.childNodes.length ? [after] : []));
}

function show(next) {
  state = next; chosen = -1; since = performance.now();
  close(); fail('');
  const item = state.item;
  byId('who').hidden = true; byId('page').hidden = !item; byId('all-done').hidden = !!item; byId('controls').hidden = false;
  byId('who-shown').textContent = `annotate · ${state.annotator}`;
  byId('bar').max = Math.max(1, state.total); byId('bar').value = state.done + state.skipped;
  byId('counts').textContent = `${state.done} done of ${state.total}` + (state.skipped ? `, ${state.skipped} skipped` : '')
    + (state.no_choice ? `, ${state.no_choice} without a choice` : '');
  for (const id of ['scale', 'edit', 'skip', 'save', 'keys']) byId(id).hidden = !item;
  byId('go-on').hidden = !item || !state.can_follow;
  byId('undo').disabled = !state.can_undo;
  if (item) {
    byId('context').replaceChildren(...item.context.flatMap(parts));
    byId('tools').hidden = !item.tools; byId('tools-text').textContent = item.tools ?? '';
    fill('left'); fill('right');
    byId('context').scrollTop = byId('context').scrollHeight; byId('page').scrollTop = 0;
  }
  choose(-1); byId('page').focus();
}

function choose(place) {
  const before = chosen < 0 ? null : SCALE[chosen][0];
  chosen = place;
  const side = place < 0 ? null : SCALE[place][0];
  [...byId('scale').children].forEach((button, i) => button.setAttribute('aria-checked', String(i === place)));
  for (const each of ['left', 'right']) byId(each).classList.toggle('better', each === side);
  byId('save').disabled = byId('edit').disabled = byId('go-on').disabled = place < 0;
  if (side !== before) close();
}

function better() { return state.item[SCALE[chosen][0]].message; }

function edit() {
  if (chosen < 0 || !byId('editor').hidden) return;
  byId('editor').hidden = false;
  byId('edited').value = better().content; byId('edited-call').value = better().tool_calls ?? '';
  for (const id of ['edited-call', 'edited-call-label']) byId(id).hidden = !better().tool_calls && !state.item.tools;
  byId('edited').focus();
}

function best() {
  if (byId('editor').hidden) return better();
  return { role: 'assistant', content: byId('edited').value, tool_calls: byId('edited-call').value || null };
}

function goOn() {
  if (chosen < 0 || !state.can_follow) return;
  byId('going-on').hidden = false;
  byId('follow-label').textContent = best().tool_calls ? 'What the tool answers' : 'What the user says next';
  byId('follow').focus();
}

function close() {
  for (const id of ['editor', 'going-on']) byId(id).hidden = true;
  byId('edited').value = byId('edited-call').value = byId('follow').value = '';
}

function fail(text) { byId('error').textContent = text; byId('error').hidden = !text; }

async function send(path, body) {
  if (busy) return;
  busy = true; byId('counts').textContent = 'one moment…';
  try {
    const options = body && { method: 'POST', headers: { 'Content-Type': 'application/json' }, body: JSON.stringify(body) };
    const response = await fetch(path, options), reply = await response.json();
    if (response.ok && reply.annotator === name) show(reply);
    else if (response.ok) { busy = false; await load(); }  // another name was entered while this was on its way
    else if (response.status === 409) { busy = false; await load(); fail(reply.error.message); }
    else { counts(); fail(reply.error.message); if (!state) ask(); }
  } catch (error) { counts(); fail(`the server does not answer: ${error.message}`); }
  busy = false;
}

function counts() { byId('counts').textContent = state ? `${state.done} done of ${state.total}` : ''; }
function load() { return send(`/api/state?annotator=${encodeURIComponent(name)}`); }

function save() {
  if (chosen < 0 || !state?.item) return;
  const [side, strength] = SCALE[chosen], then = byId('going-on').hidden ? '' : byId('follow').value;
  const edited = byId('editor').hidden ? null : best();
  const follow = then.trim() ? { role: best().tool_calls ? 'ipython' : 'user', content: then } : null;
  send('/api/decide', {
    annotator: state.annotator, item: state.item.id, side, strength, edited, follow, seconds: (performance.now() - since) / 1000,
  });
}

function skip() { if (state?.item) send('/api/skip', { annotator: state.annotator, item: state.item.id }); }
function undo() { if (state?.can_undo) send('/api/undo', { annotator: state.annotator }); }

function ask() {
  for (const id of ['page', 'controls', 'all-done']) byId(id).hidden = true;
  byId('who').hidden = false; byId('name').value = name; byId('name').focus();
}

SCALE.forEach(([side, strength], i) => {
  const button = document.createElement('button'), key = document.createElement('kbd');
  button.type = 'button'; button.setAttribute('role', 'radio'); key.textContent = String(i + 1);
  button.append(key, ` ${side} ${WORDS[strength]}`);
  button.addEventListener('click', () => choose(i));
  byId('scale').append(button);
});
for (const [id, action] of [['edit', edit], ['go-on', goOn], ['skip', skip], ['undo', undo], ['save', save], ['rename', ask]]) {
  byId(id).addEventListener('click', action);
}
byId('who').addEventListener('submit', event => {
  event.preventDefault();
  name = byId('name').value.trim(); localStorage.setItem('puna.annotator', name); state = null; load();
});
document.addEventListener('keydown', event => {
  if (event.isComposing) return;
  if (event.target.matches('textarea, input')) {
    if (event.key === 'Escape') { close(); byId('page').focus(); }
    if (event.key === 'Enter' && (event.ctrlKey || event.metaKey)) { event.preventDefault(); save(); }
    return;
  }
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const actions = { e: edit, g: goOn, s: skip, u: undo, n: ask, Escape: close };
  if (state?.item && /^[1-8]$/.test(event.key)) choose(Number(event.key) - 1);
  else if (state?.item && event.key === 'ArrowLeft') choose(chosen < 0 ? 3 : Math.max(0, chosen - 1));
  else if (state?.item && event.key === 'ArrowRight') choose(chosen < 0 ? 4 : Math.min(7, chosen + 1));
  else if (event.key === 'Enter' && !event.target.matches('button:not([role=radio]), summary')) save();
  else if (actions[event.key]) actions[event.key]();
  else return;
  event.preventDefault();
});
if (name) load(); else ask();
