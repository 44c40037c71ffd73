/**
 * The page: makes its parts and lets them know of each other.
 *
 * tracks.js is the library, player.js the sound, reader.js the texts, streams.js the named streams, radio.js live
 * audio, channel.js the events of channels, lines.js the endless stream; each can fail by itself and says so in
 * notices.js.
 */

import { Channel } from "./channel.js";
import { byId } from "./elements.js";
import { Lines } from "./lines.js";
import { Notices } from "./notices.js";
import { Player } from "./player.js";
import { asProblem, isAbort, requestJson } from "./problem.js";
import { Radio } from "./radio.js";
import { Reader } from "./reader.js";
import { Streams } from "./streams.js";
import { Tracks } from "./tracks.js";

/** Tells the mill wheel whether anything flows: it turns as long as one part says so. */
function wheel() {
  const flowing = new Set();
  return (part) => (flows) => {
    if (flows) flowing.add(part);
    else flowing.delete(part);
    document.documentElement.toggleAttribute("data-flowing", flowing.size > 0);
  };
}

/** The id in `#track=ID`, or null. */
function linkedTrack() {
  const match = /^#track=(\d{1,19})$/.exec(location.hash);
  return match && Number(match[1]);
}

/**
 * The track that the address names; null if it names none or it cannot be had.
 *
 * `again` is called if the server could not be reached and is back.
 */
async function findLinked(tracks, notices, signal, again) {
  const id = linkedTrack();
  if (id === null) return null;
  const shown = tracks.shown.find((track) => track.id === id);
  if (shown) return shown;
  try {
    return await requestJson(`/audio/${id}.json`, signal);
  } catch (error) {
    if (isAbort(error)) return null;
    const problem = asProblem(error);
    notices.show("link", `The linked track is not here. ${problem.message}`, {
      reference: problem.instance,
      whenBack: problem.unanswered ? again : null,
    });
    return null;
  }
}

/** Puts the track that plays into the page's title and address. */
function tell({ id, title, artist }) {
  document.title = `${[title, artist].filter(Boolean).join(" – ")} · Millrace`;
  history.replaceState(null, "", `#track=${id}`);
}

/** Puts what is heard live into the page's title; the address stays. */
function tellLive(title, name) {
  document.title = [title, name, "Millrace"].filter(Boolean).join(" · ");
}

function start() {
  const notices = new Notices(byId("alerts"));
  const flow = wheel();
  const tracks = new Tracks({
    notices,
    onChoose: (track) => player.play(track),
    onChange: () => player.refresh(),
  });
  const player = new Player({
    queue: tracks,
    notices,
    onFlow: flow("player"),
    onTrack: (track) => tracks.mark(track.id),
    onPlaying: (track) => {
      finding.abort(); // what plays now counts, and not what the address named
      radio.stop();
      streams.silence();
      tell(track);
    },
  });
  const reader = new Reader({ notices, onFlow: flow("reader") });
  const radio = new Radio({
    notices,
    volume: byId("player"),
    onPlay: () => {
      player.pause();
      streams.silence();
    },
    onTitle: tellLive,
    onFlow: flow("radio"),
  });
  const streams = new Streams({
    notices,
    flow,
    onSound: () => {
      player.pause();
      radio.stop();
    },
  });
  new Channel({ notices, onFlow: flow("channel") });
  new Lines({ notices, onFlow: flow("lines") });

  let finding = new AbortController();
  async function cueLinked() {
    finding.abort();
    finding = new AbortController();
    notices.clear("link");
    const track = await findLinked(tracks, notices, finding.signal, cueLinked);
    if (!track || track.id === player.track?.id) return;
    player.cue(track);
    tell(track);
  }
  addEventListener("hashchange", cueLinked);
  reader.load();
  streams.load();
  tracks.load().then(async () => {
    await cueLinked();
    // The person may have chosen one meanwhile.
    if (tracks.shown.length > 0 && player.track === null) player.cue(tracks.shown[0]);
  });
}

start();
