/** What the system shows as playing, and its media keys: whoever began to play last has them. */

const ACTIONS = ["play", "pause", "stop", "previoustrack", "nexttrack", "seekbackward", "seekforward", "seekto"];

/**
 * @param {MediaMetadataInit} metadata
 * @param {Record<string, (details: MediaSessionActionDetails) => void>} actions - by name; the others do nothing
 */
export function takeMediaSession(metadata, actions) {
  if (!("mediaSession" in navigator)) return;
  navigator.mediaSession.metadata = new MediaMetadata(metadata);
  for (const action of ACTIONS) {
    try {
      navigator.mediaSession.setActionHandler(action, actions[action] ?? null);
    } catch {
      // This browser has no such key.
    }
  }
}

/** Where a track stands; without: what plays is live. @param {MediaPositionState} [position] */
export function tellPosition(position) {
  navigator.mediaSession?.setPositionState(position);
}
