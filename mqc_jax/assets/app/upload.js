// The upload box: sends the chosen file to /uploads and tells the page what came of it.
const input = element.querySelector('input');
const box = element.querySelector('.drop');
const note = element.querySelector('.sending');
input.accept = 'video/*,.mp4,.m4v,.mov,.mkv,.webm,.avi,.mpg,.mpeg,.ts,.ogv,.gif';

function send(file) {
  if (!file || input.disabled) return;
  if (!document.querySelector('#stop').disabled) {
    input.value = '';
    note.textContent = 'A job is running; wait for its end, or stop it first.';
    return;
  }
  if (file.size > props.megabytes * 1e6) {
    // The server would refuse it too, but by closing the connection in the middle.
    input.value = '';
    const limit = `“${file.name}” is larger than ${props.megabytes} MB, the limit here`;
    trigger('sent', { error: `${limit}; cut it shorter or make its frames smaller` });
    return;
  }
  input.disabled = true;
  trigger('sending', { name: file.name });
  const request = new XMLHttpRequest();
  const end = (answer) => {
    input.disabled = false;
    input.value = '';
    note.textContent = '';
    trigger('sent', answer);
  };
  request.upload.onprogress = (event) => {
    note.textContent = `Sending ${file.name}: ${Math.round((100 * event.loaded) / Math.max(event.total, 1))} %`;
  };
  request.onload = () => {
    try {
      end(JSON.parse(request.responseText));
    } catch {
      end({ error: `The server refused the file (status ${request.status}).` });
    }
  };
  request.onerror = () => end({ error: 'The file could not be sent; is the connection gone?' });
  request.open('POST', new URL('uploads', document.baseURI));
  request.setRequestHeader('X-File-Name', encodeURIComponent(file.name));
  request.send(file);
}

input.addEventListener('change', () => send(input.files[0]));
for (const kind of ['dragover', 'dragenter', 'dragleave', 'drop']) {
  box.addEventListener(kind, (event) => {
    event.preventDefault();
    box.classList.toggle('over', kind === 'dragover' || kind === 'dragenter');
    if (kind === 'drop') send(event.dataTransfer.files[0]);
  });
}
