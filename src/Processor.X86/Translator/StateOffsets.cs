using System.Runtime.InteropServices;

namespace Bunraku.Processor.X86;

/// <summary>Offsets of the processor state's fields in emitted code, taken from the struct.</summary>
internal static unsafe class StateOffsets
{
    public static readonly int
        Attention = Of(nameof(ProcessorState.AttentionFlags)), Retired = Of(nameof(ProcessorState.Retired)), ShadowAt = Of(nameof(ProcessorState.ShadowAt)),
            FlagsOther = Of(nameof(ProcessorState.FlagsOther)),
        TlbContext = Of(nameof(ProcessorState.TlbContext)), Tlb = Of(nameof(ProcessorState.TlbBytes)), Mxcsr = Of(nameof(ProcessorState.Mxcsr)),
        Simd = Of(nameof(ProcessorState.Simd)), Fxsave = Of(nameof(ProcessorState.Fxsave)), Mode = Of(nameof(ProcessorState.Mode)),
        GdtrBase = Of(nameof(ProcessorState.GdtrBase)), GdtrLimit = Of(nameof(ProcessorState.GdtrLimit)),
        Cpl = Of(nameof(ProcessorState.Cpl)), Direction = Of(nameof(ProcessorState.Direction)),
        KernelGsBase = Of(nameof(ProcessorState.KernelGsBase)), Cr4 = Of(nameof(ProcessorState.Cr4)),
            Cr2 = Of(nameof(ProcessorState.Cr2)), Cr3 = Of(nameof(ProcessorState.Cr3)), Pkru = Of(nameof(ProcessorState.Pkru)),
            TscOffset = Of(nameof(ProcessorState.TscOffset)),
            TscAux = Of(nameof(ProcessorState.TscAux)),
        SystemCalls = Mine(nameof(TranslatorState.SystemCalls)), SystemReturns = Mine(nameof(TranslatorState.SystemReturns)),
            Returns = Mine(nameof(TranslatorState.Returns)),
        FsBase = RegisterOffsets.BaseOf(Seg.Fs), GsBase = RegisterOffsets.BaseOf(Seg.Gs),
        HostFlags = Mine(nameof(TranslatorState.HostFlags)), Target = Mine(nameof(TranslatorState.Target)), Exit = Mine(nameof(TranslatorState.Exit)),
        ExitKind = Mine(nameof(TranslatorState.ExitKind)), SimdLoaded = Mine(nameof(TranslatorState.SimdLoaded)),
            X87Loaded = Mine(nameof(TranslatorState.X87Loaded)),
        MissAddress = Mine(nameof(TranslatorState.MissAddress)), MissLast = Mine(nameof(TranslatorState.MissLast)),
        XsaveHeader = Of(nameof(ProcessorState.XsaveHeader)), X87Last = Mine(nameof(TranslatorState.X87Last)),
            X87LastMemory = Mine(nameof(TranslatorState.X87LastMemory)),
        X87Address = Mine(nameof(TranslatorState.X87Address)), X87Opcode = Mine(nameof(TranslatorState.X87Opcode)),
        X87InstructionPointer = Mine(nameof(TranslatorState.X87InstructionPointer)), X87DataPointer = Mine(nameof(TranslatorState.X87DataPointer)),
        Temporary0 = Mine(nameof(TranslatorState.Temporary0)), Temporary1 = Mine(nameof(TranslatorState.Temporary1)),
        Temporary2 = Mine(nameof(TranslatorState.Temporary2)), Temporary3 = Mine(nameof(TranslatorState.Temporary3)),
        KeptFlags = Mine(nameof(TranslatorState.KeptFlags)), KeptFirst = Mine(nameof(TranslatorState.KeptFirst)),
            KeptSecond = Mine(nameof(TranslatorState.KeptSecond)),
        Predictions = Mine(nameof(TranslatorState.Predictions)), GroupAddends = Mine(nameof(TranslatorState.GroupAddends)),
        FirstLevel = Mine(nameof(TranslatorState.FirstLevel)), Mappings = Mine(nameof(TranslatorState.Mappings)),
            Targets = Mine(nameof(TranslatorState.Targets)),
        Quiet = Mine(nameof(TranslatorState.Quiet)),
        HostStack = Mine(nameof(TranslatorState.HostStack)), ReturnStack = Mine(nameof(TranslatorState.ReturnStack)),
            ReturnTable = Mine(nameof(TranslatorState.ReturnTable));

    /// <summary>The place in a mode's return stack while another mode's is in use.</summary>
    public static int ReturnStackOf(int table) => Mine(nameof(TranslatorState.ReturnStacks)) + table * sizeof(ulong);

    public static readonly int
        TlbReadTag = (int)Marshal.OffsetOf<TlbEntry>(nameof(TlbEntry.ReadTag)), TlbWriteTag = (int)Marshal.OffsetOf<TlbEntry>(nameof(TlbEntry.WriteTag)),
        TlbExecTag = (int)Marshal.OffsetOf<TlbEntry>(nameof(TlbEntry.ExecTag)), TlbAddend = (int)Marshal.OffsetOf<TlbEntry>(nameof(TlbEntry.Addend));

    /// <summary>Limit of a segment register.</summary>
    public static int Limit(Seg segment) => RegisterOffsets.BaseOf(segment) + (int)Marshal.OffsetOf<SegmentRegister>(nameof(SegmentRegister.Limit));

    /// <summary>Attributes of a segment register.</summary>
    public static int Attributes(Seg segment) => RegisterOffsets.BaseOf(segment) + (int)Marshal.OffsetOf<SegmentRegister>(nameof(SegmentRegister.Attributes));

    /// <summary>The selector of a segment register.</summary>
    public static int Selector(Seg segment) => RegisterOffsets.BaseOf(segment) + (int)Marshal.OffsetOf<SegmentRegister>(nameof(SegmentRegister.Selector));

    /// <summary>General register <paramref name="n"/>, 0 to 15.</summary>
    public static int Gpr(int n) => n * sizeof(ulong);

    private static int Of(string field) => (int)Marshal.OffsetOf<ProcessorState>(field);

    private static int Mine(string field) => Of(nameof(ProcessorState.Translator)) + (int)Marshal.OffsetOf<TranslatorState>(field);
}
