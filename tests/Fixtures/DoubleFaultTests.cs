using static Iced.Intel.AssemblerRegisters;

namespace Bunraku.Fixtures;

/// <summary>Intel SDM vol. 3A, "Interrupt 8—Double Fault Exception (#DF)": the table "Conditions for Generating a Double Fault", and shutdown.</summary>
public sealed class DoubleFaultTests
{
    private static void Break(Guest g, int vector) => g.Idt(vector, Desc.Gate(g.StubCode, 0, Desc.IntGate - Desc.NotPresent));

    /// <summary>The first event is one that the code raises, the second the absence of its gate.</summary>
    private static Outcome Run(string engine, Mode mode, int first, params int[] broken)
    {
        using var g = new Guest(mode);
        g.Code(a =>
        {
            g.Mark(a, "at");
            switch (first)
            {
                case X.DE: a.div(ecx); break;
                case X.UD: a.ud2(); break;
                case X.BP: a.int3(); break;
                case X.PF: a.mov(eax, g.AtBx); break;
                case X.GP: a.mov(ds, esi); break;
                default: throw new ArgumentOutOfRangeException(nameof(first));
            }
            g.End(a);
        });
        g.State.Gpr[3] = 0x80_0000;
        g.State.Gpr[6] = Sel.Free;
        g.Gdt(Sel.Free, 0);
        foreach (int vector in broken) Break(g, vector);
        return g.Run(engine);
    }

    [Theory]
    [Engines(Mode.Protected32, X.DE), Engines(Mode.Protected32, X.GP), Engines(Mode.Paged32, X.PF), Engines(Mode.Long, X.DE), Engines(Mode.Long, X.GP),
        Engines(Mode.Long, X.PF)]
    public void A_contributory_fault_while_delivering_a_contributory_or_page_fault_is_a_double_fault_with_error_code_0(string engine, Mode mode, int first)
    {
        Outcome o = Run(engine, mode, first, first);
        Assert.Equal(((int?)X.DF, (uint?)0), (o.Vector, o.Frame.Error));
    }

    [Theory]
    [Engines(Mode.Protected32, X.UD), Engines(Mode.Long, X.UD)]
    public void A_contributory_fault_while_delivering_a_benign_exception_is_handled_serially(string engine, Mode mode, int first)
    {
        Outcome o = Run(engine, mode, first, first);
        Assert.Equal(((int?)X.NP, (uint?)(first << 3 | 3)), (o.Vector, o.Frame.Error));
    }

    [Theory]
    [Engines(Mode.Protected32, X.DE), Engines(Mode.Long, X.PF)]
    public void A_fault_while_delivering_a_double_fault_is_shutdown(string engine, Mode mode, int first) =>
        Run(engine, mode, first, first, X.DF).TripleFault();

    [Theory]
    [Engines(Mode.Protected32), Engines(Mode.Long)]
    public void Third_fault_after_a_serial_one_is_a_double_fault(string engine, Mode mode) =>
        Assert.Equal(X.DF, Run(engine, mode, X.UD, X.UD, X.NP).Vector);

    [Theory, Engines]
    public void A_page_fault_while_delivering_a_general_protection_fault_is_handled_serially(string engine)
    {
        using var g = new Guest(Mode.Long);
        g.Code(a =>
        {
            a.mov(eax, Sel.Free);
            a.mov(ds, eax);
            g.End(a);
        });
        g.Gdt(Sel.Free, 0);
        // The stack of #GP is absent, that of #PF is not.
        g.Idt(X.GP, Desc.Gate(Sel.Code64, Guest.Stub(X.GP), Desc.IntGate, 0, 1));
        g.Tables[Layout.Ist1Top - 8] = 0;
        Outcome o = g.Run(engine);
        Assert.Equal(((int?)X.PF, (uint?)2), (o.Vector, o.Frame.Error));
        Assert.Equal(Layout.Ist1Top - 8ul, o.State.Cr2);
    }

    [Theory, Engines]
    public void A_page_fault_while_delivering_a_page_fault_is_a_double_fault(string engine)
    {
        using var g = new Guest(Mode.Long);
        g.Code(a =>
        {
            a.mov(eax, __dword_ptr[rbx]);
            g.End(a);
        });
        g.State.Gpr[3] = 0x80_0000;
        g.Idt(X.PF, Desc.Gate(Sel.Code64, Guest.Stub(X.PF), Desc.IntGate, 0, 1));
        g.Tables[Layout.Ist1Top - 8] = 0;
        Outcome o = g.Run(engine);
        Assert.Equal(X.DF, o.Vector);
        Assert.Equal(Layout.Ist1Top - 8ul, o.State.Cr2);
    }

    [Theory, Engines]
    public void An_empty_IDT_is_shutdown(string engine)
    {
        using var g = new Guest(Mode.Long);
        g.Code(a => a.ud2());
        g.State.IdtrLimit = 0;
        g.Run(engine).TripleFault();
    }

    [Theory, Engines]
    public void In_real_mode_a_vector_beyond_the_limit_of_the_table_is_a_double_fault_and_then_shutdown(string engine)
    {
        using var g = new Guest(Mode.Real);
        g.Code(a => a.ud2());
        g.State.IdtrLimit = 6 * 4 - 1;
        g.Run(engine).TripleFault();
    }
}
