// Reads a list of PodMonitors as JSON, and writes a list of what is wrong with each, or null. The argument is the module
// with the operator's schema.
import fs from "node:fs";
import { pathToFileURL } from "node:url";

const { PodMonitor } = await import(pathToFileURL(process.argv[2]).href);

const found = JSON.parse(fs.readFileSync(0, "utf8")).map((manifest) => {
  try {
    new PodMonitor(manifest).validate();
    return null;
  } catch (error) {
    return error.message;
  }
});
console.log(JSON.stringify(found));
