// Under the result's video: a button that plays it, and a slider that goes to any frame.
const video = (part) => part.closest('.result').querySelector('video');

function label(slider) {
  const frame = Number(slider.value);
  slider.closest('.scrub').querySelector('output').textContent = frame;
  slider.setAttribute('aria-valuetext', `frame ${frame}`);
}

document.addEventListener('click', (event) => {
  const button = event.target.closest?.('.scrub button');
  if (!button) return;
  const film = video(button);
  film.paused ? film.play() : film.pause();
});

document.addEventListener('input', (event) => {
  const slider = event.target;
  if (!slider.matches?.('.scrub input')) return;
  const film = video(slider);
  film.pause();
  // The middle of a frame: its edges fall to either side.
  film.currentTime = (Number(slider.value) + 0.5) / Number(slider.dataset.fps);
  label(slider);
});

// Media events do not bubble, but they can be captured.
function follow(event) {
  const film = event.target;
  const scrub = film.closest?.('.result')?.querySelector('.scrub');
  if (!scrub) return;
  scrub.querySelector('button').textContent = film.paused ? 'Play' : 'Pause';
  if (event.type === 'timeupdate' && film.paused) return;
  const slider = scrub.querySelector('input');
  slider.value = Math.min(Number(slider.max), Math.floor(film.currentTime * Number(slider.dataset.fps) + 1e-3));
  label(slider);
}
for (const kind of ['play', 'pause', 'timeupdate']) document.addEventListener(kind, follow, true);
