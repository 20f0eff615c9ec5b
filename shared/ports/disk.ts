/**
 * The file operations of the replica and of everything durable, relative to an opened directory (openat), so that no
 * component of a path is ever followed through a symlink that a stranger planted. Synchronous: it is used in workers
 * only. The real one is `shared/durable/real-disk.ts`; the crash matrix has one that forgets, tears and reorders what
 * was not synced, so **everything the replica does to files goes through here**.
 *
 * Names are one path component in latin1 (see StorePath), never "", ".", ".." or with "/" or NUL (asserted).
 * Failures are Node system errors with their `code` (ENOENT, EEXIST, ENOSPC, EIO, EXDEV, ELOOP, ENOTDIR ...).
 */
export interface Disk {
  /** Opens a directory by an absolute path from the configuration, in latin1 as names are; symlinks in it are followed. */
  openRoot(path: string): Directory;
  /** O_DIRECTORY|O_NOFOLLOW: ENOTDIR or ELOOP for anything else. */
  openDirectory(parent: Directory, name: string): Directory;
  closeDirectory(directory: Directory): void;

  list(directory: Directory): string[];
  /** lstat, or undefined if there is nothing of this name. */
  stat(directory: Directory, name: string): Stat | undefined;
  /** stat of the directory itself. */
  statDirectory(directory: Directory): Stat;

  /**
   * O_NOFOLLOW, regular files only (else ELOOP or ENXIO/EISDIR/EINVAL). `create` is O_CREAT|O_EXCL, with these permission
   * bits less what the umask takes (default: 0o600).
   */
  openFile(directory: Directory, name: string, mode: "read" | "write" | "create", permissions?: number): OpenFile;
  closeFile(file: OpenFile): void;
  statFile(file: OpenFile): Stat;
  /** Reads up to `length` bytes at `position`; fewer only at the end of the file. */
  read(file: OpenFile, buffer: Uint8Array, offset: number, length: number, position: number): number;
  /** Writes all of `bytes` at `position`; the hole before it, if any, stays a hole. */
  write(file: OpenFile, bytes: Uint8Array, position: number): void;
  /**
   * As `write`, for what is long and not read soon: past the page cache, so that nothing piles up there until the sync.
   * False, with nothing written, where that cannot be done here. Durable by `syncFile` as anything else.
   */
  writeUncached?(file: OpenFile, bytes: Uint8Array, position: number): boolean;
  /**
   * Lets `to`, which is new and empty, share all blocks of `from`. False, with nothing changed, where the filesystem cannot do
   * that, or both are not on the same one.
   */
  cloneFile?(from: OpenFile, to: OpenFile): boolean;
  truncate(file: OpenFile, size: number): void;
  setFileMeta(file: OpenFile, meta: Partial<FileMeta>): void;
  /**
   * Data, size, and what `setFileMeta` set on this same handle; meta that was set by name needs `syncFilesystem`. A
   * failure is never retried by the caller.
   */
  syncFile(file: OpenFile): void;
  /**
   * A hint, where the disk can take it: what was written so far may go to the disk now, in the background, so that
   * `syncFile` finds less to do. Promises nothing; a failure is `syncFile`'s to tell.
   */
  startWriteback?(file: OpenFile): void;

  rename(fromDirectory: Directory, from: string, toDirectory: Directory, to: string): void;
  link(fromDirectory: Directory, from: string, toDirectory: Directory, to: string): void;
  unlink(directory: Directory, name: string): void;
  makeDirectory(parent: Directory, name: string, mode: number): void;
  removeDirectory(parent: Directory, name: string): void;
  makeSymlink(directory: Directory, name: string, target: string): void;
  readSymlink(directory: Directory, name: string): string;
  /** Owner, mode (not of symlinks) and mtime of what has this name, without following. */
  setMeta(directory: Directory, name: string, meta: Partial<FileMeta>): void;

  /** Owner and mode of an opened directory itself. */
  setDirectoryMeta(directory: Directory, meta: Partial<FileMeta>): void;

  syncDirectory(directory: Directory): void;
  /** Everything of the filesystem that holds `directory`: one call for many files. */
  syncFilesystem(directory: Directory): void;
  /** Bytes that this process could still write to the filesystem of `directory`. */
  freeBytes(directory: Directory): number;
}

/** Opaque handles; the real ones hold a descriptor. */
export interface Directory {
  readonly handle: number;
}
export interface OpenFile {
  readonly handle: number;
}

export interface FileMeta {
  /** Permission bits with setuid, setgid and sticky: 0 to 0o7777. */
  mode: number;
  uid: number;
  gid: number;
  /** Microseconds since 1970; may be negative. */
  mtimeUs: number;
}

export interface Stat extends FileMeta {
  type: "file" | "directory" | "symlink" | "other";
  size: number;
  /** Inode number; safe integers only on the filesystems we meet (asserted). */
  inode: number;
  device: number;
  links: number;
  mtimeNs: bigint;
  ctimeNs: bigint;
  /** Allocated bytes. */
  allocated: number;
}
