namespace Bunraku.Processor.X86;

/// <summary>
/// The first level of the software TLB, which emitted code looks at itself: what makes its entries go. They are made by the hand-written code in
/// <see cref="TranslatorRuntime"/>.
/// </summary>
internal sealed unsafe class FirstLevelTlb(ProcessorState* state, LinearMirror mirror)
{
    /// <summary>Drops every entry.</summary>
    public void Drop()
    {
        for (int privilege = 0; privilege < TranslatorState.Privileges; privilege++)
        {
            byte* table = state->Translator.FirstLevel + privilege * TranslatorState.TableSize;
            new Span<ulong>(table + TranslatorState.ReadTag, TranslatorState.FirstLevelSize).Fill(TranslatorState.EmptyTag);
            new Span<ulong>(table + TranslatorState.WriteTag, TranslatorState.FirstLevelSize).Fill(TranslatorState.EmptyTag);
        }
        new Span<uint>(state->Translator.Mappings, 2 * TranslatorState.MappingSize).Clear();
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
        ulong number = page >> 12, tag = 0 - number;
        int n = (int)number & (TranslatorState.FirstLevelSize - 1);
        for (int privilege = 0; privilege < TranslatorState.Privileges; privilege++)
        {
            byte* table = state->Translator.FirstLevel + privilege * TranslatorState.TableSize;
            ulong* read = (ulong*)(table + TranslatorState.ReadTag) + n, write = (ulong*)(table + TranslatorState.WriteTag) + n;
            if (*read == tag) *read = TranslatorState.EmptyTag;
            if (*write == tag) *write = TranslatorState.EmptyTag;
        }
        int slot = (int)number & (TranslatorState.MappingSize - 1);
        state->Translator.Mappings[slot] = state->Translator.Mappings[TranslatorState.MappingSize + slot] = 0;
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
                if (tags[n] != TranslatorState.EmptyTag && mirror.PageAt((byte*)((0 - tags[n] << 12) + (ulong)addends[n])) == page)
                    tags[n] = TranslatorState.EmptyTag;
            }
        }
    }
}
