using Iced.Intel;

namespace Bunraku.Processor.X86;

/// <summary>What holds for an instruction before its handler runs; the decoder acts on it.</summary>
[Flags]
internal enum Row : uint
{
    None = 0,
    /// <summary>The handler never returns i + 1: control transfer, or something after which the mode, the privilege or the code may be another.</summary>
    EndsBlock = 1 << 0,
    /// <summary>#GP(0) unless CPL is 0 (real mode counts as 0, virtual-8086 mode as 3).</summary>
    Cpl0 = 1 << 1,
    /// <summary>#UD in real and virtual-8086 mode.</summary>
    ProtectedOnly = 1 << 2,
    /// <summary>x87: #NM when CR0.EM or CR0.TS.</summary>
    X87 = 1 << 3,
    /// <summary>WAIT/FWAIT: #NM when CR0.MP and CR0.TS.</summary>
    Wait = 1 << 4,
    /// <summary>MMX: #UD when CR0.EM, #NM when CR0.TS.</summary>
    Mmx = 1 << 5,
    /// <summary>SSE state: #UD when CR0.EM or not CR4.OSFXSR, #NM when CR0.TS.</summary>
    Sse = 1 << 6,
    /// <summary>AVX: #UD unless CR4.OSXSAVE and XCR0[2:1] = 11b, #UD in real and virtual-8086 mode, #NM when CR0.TS.</summary>
    Avx = 1 << 7,
    /// <summary>VEX-encoded without vector state (BMI): #UD in real and virtual-8086 mode.</summary>
    Vex = 1 << 8,
    /// <summary>The memory form only computes an address (LEA, NOP, prefetch): no segmentation checks, no access.</summary>
    AddressOnly = 1 << 9,
    /// <summary>The memory operand is written (segment must be writable); without it and without <see cref="Modifies"/> it is only read.</summary>
    Writes = 1 << 10,
    /// <summary>The memory operand is read and written.</summary>
    Modifies = 1 << 11,
    /// <summary>The handler checks segments of its memory accesses itself (string instructions, implicit operands, far pointers).</summary>
    OwnSegmentation = 1 << 12,
    /// <summary>A memory operand must be aligned to its size, else #GP(0) (legacy SSE 16-byte operands, VMOVAPS …); the decoder or handler checks.</summary>
    Aligned = 1 << 13,
    /// <summary>LOCK is allowed with a memory destination; the Locked handler is used.</summary>
    Lockable = 1 << 14,
    /// <summary>Executed by the host: the decoder calls <see cref="Thunks.Prepare"/>, which sets <see cref="Insn.Thunk"/>.</summary>
    Host = 1 << 15,
    /// <summary>A serialising instruction that otherwise lets the block go on (the handler returns i + 1): the block ends behind it, so that code which other processors have changed is fetched again.</summary>
    Serializes = 1 << 16,
}

/// <summary>How one instruction form is executed.</summary>
internal unsafe struct InstructionRow
{
    /// <summary>Handler when the r/m operand is a register, or when there is none. Null: the processor does not implement the form (#UD).</summary>
    public Handler Register;
    /// <summary>Handler when there is a memory operand.</summary>
    public Handler Memory;
    /// <summary>Handler when there is a memory operand and a LOCK prefix. Null: #UD.</summary>
    public Handler Locked;
    public Row Flags;
    public InterceptedInstructions Intercept;
}

/// <summary>
/// One row for each instruction form (Iced's <see cref="Code"/>): who executes it and what it depends on. Built once, then immutable.
/// The rows are added by family in the other files of this folder.
/// </summary>
internal static unsafe partial class InstructionTable
{
    private static readonly InstructionRow[] s_rows = Build();

    public static ref readonly InstructionRow Get(Code code) => ref s_rows[(int)code];

    /// <summary>True when the processor has a handler for the form.</summary>
    public static bool Implements(Code code) => s_rows[(int)code].Register != null || s_rows[(int)code].Memory != null;

    private static InstructionRow[] Build()
    {
        var rows = new InstructionRow[IcedConstants_CodeCount()];
        var table = new Builder(rows);
        Integer(table);
        ControlFlow(table);
        Strings(table);
        SystemInstructions(table);
        X87(table);
        Simd(table);
        return rows;
    }

    private static int IcedConstants_CodeCount() => Enum.GetValues<Code>().Length;

    private static partial void Integer(Builder t);
    private static partial void ControlFlow(Builder t);
    private static partial void Strings(Builder t);
    private static partial void SystemInstructions(Builder t);
    private static partial void X87(Builder t);
    private static partial void Simd(Builder t);

    /// <summary>Collects rows; a second row for the same form is a defect.</summary>
    internal sealed class Builder(InstructionRow[] rows)
    {
        public bool Contains(Code code) => rows[(int)code].Register != null || rows[(int)code].Memory != null;

        public void Add(Code code, Handler register, Handler memory = null, Handler locked = null, Row flags = Row.None, InterceptedInstructions intercept = InterceptedInstructions.None)
        {
            ref InstructionRow row = ref rows[(int)code];
            if (row.Register != null || row.Memory != null) throw new InvalidOperationException($"two rows for {code}");
            row = new InstructionRow { Register = register, Memory = memory, Locked = locked, Flags = flags | (locked != null ? Row.Lockable : 0), Intercept = intercept };
        }
    }
}
