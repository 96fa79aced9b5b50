namespace Bunraku.Processor.X86;

/// <summary>
/// The first level of the software TLB, which emitted code looks at itself: what makes its entries go. They are made by the hand-written code in
/// <see cref="TranslatorRuntime"/>.
/// </summary>
internal sealed unsafe class FirstLevelTlb(ProcessorState* state, LinearMirror mirror)
{
    private readonly ulong[] _empty = EmptyTags();

    private static ulong[] EmptyTags()
    {
        var tags = new ulong[TranslatorState.FirstLevelSize];
        for (int n = 0; n < tags.Length; n++) tags[n] = TranslatorState.EmptyTag(n);
        return tags;
    }

    /// <summary>Drops every entry.</summary>
    public void Drop()
    {
        Drop(inGuestMode: false);
        Drop(inGuestMode: true);
    }

    /// <summary>Drops every entry for code outside guest mode, or for code in it.</summary>
    public void Drop(bool inGuestMode)
    {
        int first = inGuestMode ? TranslatorState.Levels : 0;
        for (int privilege = first; privilege < first + TranslatorState.Levels; privilege++)
        {
            byte* table = state->Translator.FirstLevel + privilege * TranslatorState.TableSize;
            _empty.CopyTo(new Span<ulong>(table + TranslatorState.ReadTag, TranslatorState.FirstLevelSize));
            _empty.CopyTo(new Span<ulong>(table + TranslatorState.WriteTag, TranslatorState.FirstLevelSize));
        }
        new Span<uint>(state->Translator.Mappings + (inGuestMode ? 2 * TranslatorState.MappingSize : 0), 2 * TranslatorState.MappingSize).Clear();
        DropPredictions();
    }

    private void DropPredictions()
    {
        var next = (PagePrediction*)state->Translator.Predictions;
        state->Translator.Predictions = 0;
        while (next != null)
        {
            next->Tag = PagePrediction.Empty;
            next = (PagePrediction*)next->Next;
        }
    }

    /// <summary>Drops the first-level entries of one linear page.</summary>
    public void DropPage(ulong page)
    {
        ulong tag = TranslatorState.TagOf(page);
        int n = TranslatorState.EntryOf(page);
        for (int privilege = 0; privilege < TranslatorState.Privileges; privilege++)
        {
            byte* table = state->Translator.FirstLevel + privilege * TranslatorState.TableSize;
            ulong* read = (ulong*)(table + TranslatorState.ReadTag) + n, write = (ulong*)(table + TranslatorState.WriteTag) + n;
            if (*read == tag) *read = _empty[n];
            if (*write == tag) *write = _empty[n];
        }
        int slot = (int)(page >> 12) & (TranslatorState.MappingSize - 1);
        for (int table = 0; table < TranslatorState.MappingTables; table++) state->Translator.Mappings[table * TranslatorState.MappingSize + slot] = 0;
        DropPredictions();
    }

    /// <summary>Drops the entries through which the backing page at <paramref name="page"/> could be written.</summary>
    public void RevokeWrites(byte* page)
    {
        DropPredictions();
        for (int privilege = 0; privilege < TranslatorState.Privileges; privilege++)
        {
            byte* table = state->Translator.FirstLevel + privilege * TranslatorState.TableSize;
            var tags = (ulong*)(table + TranslatorState.WriteTag);
            var addends = (nint*)(table + TranslatorState.WriteAddend);
            for (int n = 0; n < TranslatorState.FirstLevelSize; n++)
            {
                if (tags[n] != _empty[n] && mirror.PageAt((byte*)((0 - tags[n]) + (ulong)addends[n])) == page) tags[n] = _empty[n];
            }
        }
    }
}
