// Reads a list of the Prometheus operator's manifests as JSON, and writes a list of what is wrong with each, or null. The
// argument is the directory with the operator's schemas, a module for each kind.
import fs from "node:fs";
import path from "node:path";
import { pathToFileURL } from "node:url";

const found = JSON.parse(fs.readFileSync(0, "utf8")).map(async (manifest) => {
  const module = await import(pathToFileURL(path.join(process.argv[2], `${manifest.kind}.js`)).href);
  try {
    new module[manifest.kind](manifest).validate();
    return null;
  } catch (error) {
    return error.message;
  }
});
console.log(JSON.stringify(await Promise.all(found)));
