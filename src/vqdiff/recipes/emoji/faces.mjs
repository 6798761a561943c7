// Draws avatars: reads one JSON object a line, {"style", "options"}, and writes one SVG document a line, as a JSON string.
// usage: node faces.mjs FOLDER, where FOLDER holds DiceBear's packages; they find each other in node_modules/@dicebear.
import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";

const folder = pathToFileURL(`${process.argv[2]}/`);
const { createAvatar } = await import(new URL("core/lib/index.js", folder));
const styles = new Map();
for await (const line of createInterface({ input: process.stdin })) {
  const { style, options } = JSON.parse(line);
  if (!styles.has(style)) styles.set(style, await import(new URL(`${style}/lib/index.js`, folder)));
  const text = JSON.stringify(createAvatar(styles.get(style), options).toString());
  if (!process.stdout.write(`${text}\n`)) await new Promise((resolve) => process.stdout.once("drain", resolve));
}
