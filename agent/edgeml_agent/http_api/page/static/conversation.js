// A model's conversation, kept for this tab: another model's page and a reload leave it, a closed tab forgets it.

const key = (model) => `conversation ${model}`;

/** The turns of a model: {all, add, forget}. */
export function kept(model) {
  const all = read(model);
  return {
    all,
    add: (...turns) => {
      all.push(...turns);
      write(model, all);
    },
    forget: () => {
      all.length = 0;
      sessionStorage.removeItem(key(model));
    },
  };
}

function read(model) {
  try {
    return JSON.parse(sessionStorage.getItem(key(model))) ?? [];
  } catch {
    return [];
  }
}

function write(model, turns) {
  try {
    sessionStorage.setItem(key(model), JSON.stringify(turns));
  } catch {
    sessionStorage.removeItem(key(model)); // longer than the browser's few MB: the page still has it
  }
}
