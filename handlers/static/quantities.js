/** Quantities as people read them. */

const MINUTE = 60;
const HOUR = 3600;

/** @param {number | null} seconds @returns {string} `m:ss` or `h:mm:ss`; empty if it is not known */
export function duration(seconds) {
  if (!Number.isFinite(seconds) || seconds < 0) return "";
  const whole = Math.floor(seconds); // as the audio element shows it
  const hours = Math.floor(whole / HOUR);
  const minutes = Math.floor((whole % HOUR) / MINUTE);
  const rest = String(whole % MINUTE).padStart(2, "0");
  return hours ? `${hours}:${String(minutes).padStart(2, "0")}:${rest}` : `${minutes}:${rest}`;
}

/** @param {number | null} bytes @returns {string} with a binary prefix; empty if it is not known */
export function size(bytes) {
  if (!Number.isFinite(bytes)) return "";
  if (bytes < 1024) return `${bytes} B`;
  let value = bytes;
  let prefix = "";
  for (prefix of ["Ki", "Mi", "Gi", "Ti"]) {
    value /= 1024;
    if (value < 1023.5) break;
  }
  return `${value < 9.95 ? value.toFixed(1).replace(/\.0$/, "") : Math.round(value)} ${prefix}B`;
}

/** @param {number} number @param {string} noun - in the singular, regular */
export function count(number, noun) {
  return `${number.toLocaleString("en")} ${noun}${number === 1 ? "" : "s"}`;
}
