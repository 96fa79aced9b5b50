using static Iced.Intel.AssemblerRegisters;

namespace Bunraku.Fixtures;

/// <summary>Intel SDM vol. 3A, "Protection Keys" and, for the error code, "Page-Fault Exceptions".</summary>
public sealed class ProtectionKeyTests
{
    private const uint Present = 1, Write = 2, User = 4, KeyViolation = 0x20, AccessDisable = 1 << 2, WriteDisable = 1 << 3;

    /// <summary>A user page with key 1 is accessed under a PKRU.</summary>
    [Theory]
    [Engines(3, 0u, true, AccessDisable, false, User | Present | KeyViolation)]
    [Engines(3, 0u, true, WriteDisable, true, User | Write | Present | KeyViolation)]
    [Engines(0, 0u, true, WriteDisable, true, Write | Present | KeyViolation)]
    // The key is reported whatever else forbids the access.
    [Engines(3, 0u, false, AccessDisable, true, User | Write | Present | KeyViolation)]
    [Engines(3, 0u, false, WriteDisable, true, User | Write | Present | KeyViolation)]
    [Engines(0, 0u, false, AccessDisable, true, Write | Present | KeyViolation)]
    [Engines(0, 1u << 21, true, AccessDisable, false, Present | KeyViolation)] // SMAP
    [Engines(3, 0u, false, 0u, true, User | Write | Present)]
    public void PK_flag_of_the_error_code(string engine, int cpl, uint cr4, bool writable, uint pkru, bool write, uint error)
    {
        using var g = new Guest(Mode.Long, cpl);
        g.Tables[Layout.Data] = Layout.Data | Pte.P | Pte.U | (writable ? Pte.W : 0) | Pte.Key(1);
        g.State.Cr4 |= 1u << 22 | cr4; // PKE
        g.Code(a =>
        {
            a.mov(eax, pkru);
            a.xor(ecx, ecx);
            a.xor(edx, edx);
            a.wrpkru();
            g.Mark(a, "at");
            if (write) a.mov(__byte_ptr[Layout.Data], al);
            else a.mov(al, __byte_ptr[Layout.Data]);
            g.End(a);
        });
        Outcome o = g.Run(engine).Raised(X.PF, error, g["at"]);
        Assert.Equal(Layout.Data, o.State.Cr2);
    }
}
