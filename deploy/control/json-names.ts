export interface CutRef {
  readonly epoch: number;
  readonly seq: number;
}

/** `path` where the bytes are UTF-8, else `pathB64`. */
export type NamedPath = { readonly path: string } | { readonly pathB64: string };
