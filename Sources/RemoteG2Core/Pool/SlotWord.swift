/// What stands in a slot's generation word, beside its pool, where every reader of a mapping sees it.
///
/// The store changes the word before any byte of the slot may change, and makes it readable when the
/// block is sealed. A reader compares it before and after its copy: if it is the expected one both times,
/// the bytes in between were those of that generation.
public enum SlotWord {
  public static func writing(_ generation: UInt32) -> UInt64 { UInt64(generation) << 1 }
  public static func readable(_ generation: UInt32) -> UInt64 { UInt64(generation) << 1 | 1 }
}
