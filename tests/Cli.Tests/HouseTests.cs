using System.Reflection;

namespace Bunraku.Cli.Tests;

/// <summary>Who knows whom: docs/architecture.md, "The house". References are read from the built assemblies.</summary>
public sealed class HouseTests
{
    private const string Prefix = "Bunraku.", Program = "bunraku";

    /// <summary>
    /// Each project of src, the innermost first, and all others of them that it may refer to. Engines know no hypervisor, the neutral projects nothing of an
    /// architecture, and nobody knows who stands further down in this list.
    /// </summary>
    private static readonly (string Project, string[] Knows)[] s_house =
    [
        ("Platform", []),
        ("Engines", ["Platform"]),
        ("Engines.X86", ["Platform", "Engines"]),
        ("Engine.Kvm", ["Platform", "Engines", "Engines.X86"]),
        ("Engine.Check", ["Platform", "Engines", "Engines.X86"]),
        ("Processor.X86", ["Platform", "Engines", "Engines.X86"]),
        ("Storage", ["Platform"]),
        ("Network", ["Platform"]),
        ("Hypervisor", ["Platform", "Engines"]),
        ("Hypervisor.X86", ["Platform", "Engines", "Engines.X86", "Hypervisor"]),
        ("Machine", ["Platform", "Storage", "Network", "Engines", "Engines.X86", "Hypervisor", "Hypervisor.X86"]),
        ("Sessions", ["Platform", "Storage", "Network", "Engines", "Engines.X86", "Hypervisor", "Hypervisor.X86", "Machine"]),
        ("Lab", ["Platform", "Storage", "Network", "Engines", "Engines.X86", "Hypervisor", "Hypervisor.X86", "Machine", "Sessions"]),
        ("Library", ["Platform", "Storage", "Network", "Engines", "Engines.X86", "Engine.Kvm", "Engine.Check", "Processor.X86", "Hypervisor", "Hypervisor.X86",
        "Machine", "Sessions"]),
        (Program, ["Platform", "Storage", "Network", "Engines", "Engines.X86", "Engine.Kvm", "Engine.Check", "Processor.X86", "Hypervisor",
        "Hypervisor.X86", "Machine", "Sessions", "Lab", "Library"]),
    ];

    public static TheoryData<string> Projects => [.. s_house.Select(h => h.Project)];

    private static string AssemblyName(string project) => project == Program ? Program : Prefix + project;

    [Theory, MemberData(nameof(Projects))]
    public void A_project_refers_to_what_it_may_know_and_to_nothing_else(string project)
    {
        IEnumerable<string> refersTo = Assembly.Load(AssemblyName(project)).GetReferencedAssemblies().Select(a => a.Name!)
            .Where(n => n == Program || n.StartsWith(Prefix, StringComparison.Ordinal)).Select(n => n == Program ? n : n[Prefix.Length..]);
        Assert.Empty(refersTo.Except(s_house.Single(h => h.Project == project).Knows));
    }

    [Fact]
    public void Every_project_of_the_program_has_a_place_in_the_house()
    {
        IEnumerable<string> built = Directory.EnumerateFiles(AppContext.BaseDirectory, "*.dll").Select(f => Path.GetFileNameWithoutExtension(f)!)
            .Where(n => (n == Program || n.StartsWith(Prefix, StringComparison.Ordinal)) && !IsForTests(n)).Select(n => n == Program ? n : n[Prefix.Length..]);
        Assert.Equal(built.Order(StringComparer.Ordinal), s_house.Select(h => h.Project).Order(StringComparer.Ordinal));
    }

    private static bool IsForTests(string assembly) => assembly.EndsWith(".Tests", StringComparison.Ordinal) || assembly == Prefix + "DeviceFuzz";

    [Fact]
    public void Nobody_knows_who_stands_further_out()
    {
        var inside = new HashSet<string>();
        foreach ((string project, string[] knows) in s_house)
        {
            Assert.Empty(knows.Except(inside));
            inside.Add(project);
        }
    }

    [Theory, InlineData("Engines"), InlineData("Hypervisor")]
    public void The_neutral_projects_name_nothing_of_an_architecture(string project)
    {
        string[] words = ["X86", "Apic", "Msr", "Cpuid"];
        IEnumerable<string> names = Assembly.Load(AssemblyName(project)).GetExportedTypes()
            .SelectMany(t => t.GetMembers(BindingFlags.Public | BindingFlags.NonPublic | BindingFlags.Instance | BindingFlags.Static
                | BindingFlags.DeclaredOnly).Select(m => $"{t.Name}.{m.Name}"));
        Assert.DoesNotContain(names, n => words.Any(w => n.Contains(w, StringComparison.Ordinal)));
    }
}
